// Passes over ratings by several threads. A tile holds the entries of one group of users and one
// group of items. There are as many groups of items as of users, and a round of tiles is a
// diagonal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "asyncopt/models/factors/kernels.h"
#include "asyncopt/models/tiles.h"

namespace asyncopt::factors {

// How threads share the factors.
//
//              may lose updates   may tear   may block
//   hogwild    yes                yes        no         plain loads and stores (arXiv 1106.5730)
//   atomic     no                 yes        no         compare-exchange of each float
//   mutex      no                 no         yes        one entry at a time
//   ordered    no                 no         for the    one diagonal of tiles after the other, each
//                                            diagonal   tile by one thread: bit-identical for any
//                                                       number of threads
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
  Tiles tiles;
  Settings settings;
};

// Runs one pass. Returns the sum of the entries' losses; nothing if `go_on` returned false
// (asyncopt/models/tiles.h).
std::optional<double> train(const Kernel& kernel, const Sync& sync, std::size_t threads,
                            const Pass& pass, const Model& model,
                            const std::function<bool()>& go_on);

}  // namespace asyncopt::factors
