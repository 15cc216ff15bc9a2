// How the workers of a linear model share its weights.
//
//              may lose updates   may tear   may block
//   hogwild    yes                yes        no         plain loads and stores (arXiv 1106.5730)
//   atomic     no                 yes        no         compare-exchange of each weight (PASSCoDe,
//                                                       Hsieh et al., ICML 2015)
//   mutex      no                 no         yes        one example at a time
//   round-     no                 yes        for its    derivatives in parallel, changes one after
//   robin                                    turn       the other in a fixed order (Langford, Smola
//                                                       and Zinkevich, NIPS 2009): a derivative
//                                                       misses at most the last turn of each other
//                                                       worker
//   ordered    no                 no         for other  examples of a block in parallel that have
//                                            pieces     no column in common: the bits of one thread
//                                                       (Cyclades, arXiv 1605.09721; conflicts.h)
//   replicated of rare columns    yes        to merge   a private copy of the frequent columns per
//                                                       worker; more frequent ones are merged more
//                                                       often (as in arXiv 1606.07822; copies.h).
//                                                       The other columns as in hogwild; steps that
//                                                       keep numbers of examples copy all columns
//   unshared   no                 no         to merge   a private copy of all weights per worker,
//                                                       averaged at the end of a run (Zinkevich et
//                                                       al., NIPS 2010): a baseline for the others
//
// A weight is four aligned bytes and is never half written; "may tear" means that a reader may see
// part of another worker's example. Workers are threads: they die together.
#pragma once

#include <cstddef>
#include <limits>
#include <span>

namespace asyncopt::linear {

struct Sync {
  const char* name;
  bool atomic = false;
  bool locked = false;
  bool in_turn = false;
  bool ordered = false;
  std::size_t own = 0;          // most columns that each worker copies
  std::size_t merge_every = 0;  // examples of a worker between merges of the most frequent columns
  bool average = false;         // average the copies' changes instead of adding them
};

inline constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

inline constexpr Sync kSyncs[] = {
    {.name = "hogwild"},
    {.name = "atomic", .atomic = true},
    {.name = "mutex", .locked = true},
    {.name = "round-robin", .in_turn = true},
    {.name = "ordered", .ordered = true},
    {.name = "replicated", .own = 65536, .merge_every = 512},
    {.name = "unshared", .own = kAll, .merge_every = kAll, .average = true},
};

}  // namespace asyncopt::linear
