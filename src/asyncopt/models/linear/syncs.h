// How the workers of a linear model share its weights.
//
//              may lose updates   may tear   may block
//   hogwild    yes                yes        no         plain loads and stores (arXiv 1106.5730)
//   atomic     no                 yes        no         compare-exchange of each weight (PASSCoDe,
//                                                       Hsieh et al., ICML 2015)
//   mutex      no                 no         yes        one example at a time
//   round-     no                 yes        for its    derivatives at once, changes one after the
//   robin                                    turn       other in a fixed order (Langford, Smola and
//                                                       Zinkevich, NIPS 2009): none is of weights
//                                                       older than the changes of the others' last
//                                                       turns
//   ordered    no                 no         for other   examples of a block at once that have no
//                                            pieces     column in common: the bits of one thread
//                                                       (Cyclades, arXiv 1605.09721; conflicts.h)
//   replicated of rare columns    yes        to merge   the more frequent columns in copies of each
//                                                       worker's own, merged the more often the
//                                                       more frequent they are (as of arXiv
//                                                       1606.07822; copies.h); the others as under
//                                                       hogwild, but for steps that keep numbers
//                                                       of examples: those copy all columns
//   unshared   no                 no         to merge   all weights in copies of each worker's own,
//                                                       averaged at the end of a run (Zinkevich et
//                                                       al., NIPS 2010): the floor of all others
//
// A weight is four aligned bytes and never half written; "tears" means that a reader may see part
// of another's example. Workers are threads: they die together.
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
  std::size_t own = 0;          // columns of which each worker has a copy, at most
  std::size_t merge_every = 0;  // examples of a worker, for the most frequent columns
  bool average = false;         // the copies' changes, instead of adding them up
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
