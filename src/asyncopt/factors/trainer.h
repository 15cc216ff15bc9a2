// Passes over ratings by several threads.
//
// Entries lie in tiles: the users and the items are cut into as many groups, and a tile has the
// entries of one group of users and one of items. Its rows stay in a core's cache, and threads that
// work on different tiles seldom meet; those of a diagonal never do (Gemulla et al., KDD 2011).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "asyncopt/factors/kernels.h"

namespace asyncopt::factors {

// How threads share the factors.
//
//              may lose updates   may tear   may block
//   hogwild    yes                yes        no         plain loads and stores (arXiv 1106.5730)
//   atomic     no                 yes        no         compare-exchange of each float
//   mutex      no                 no         yes        one entry at a time
//   ordered    no                 no         for the    tiles of a diagonal at a time, each by one
//                                            diagonal   thread: the same bits whatever the number
//                                            of
//                                                       threads
struct Sync {
  const char* name;
  bool atomic = false;
  bool locked = false;
  bool ordered = false;
};

inline constexpr Sync kSyncs[] = {
    {.name = "hogwild"},
    {.name = "atomic", .atomic = true},
    {.name = "mutex", .locked = true},
    {.name = "ordered", .ordered = true},
};

struct Pass {
  Entries entries;
  Liked liked;
  std::span<const std::int64_t> begin;  // of each tile, and the end of the last
  std::span<const std::int64_t> order;  // of the tiles
  std::size_t groups;                   // so many in a row share no user and no item
  Settings settings;
};

// Threads take the tiles in order, each the next one when it is free. Returns the sum of the
// entries' losses; nothing once `go_on`, asked some 20 times a second, said no.
std::optional<double> train(const Kernel& kernel, const Sync& sync, std::size_t threads,
                            const Pass& pass, const Model& model,
                            const std::function<bool()>& go_on);

}  // namespace asyncopt::factors
