// Passes over the edges of a graph by several threads. A tile holds the edges between two groups of
// vertices, or within one. The rounds of tiles are those of a round-robin tournament of the groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "asyncopt/models/cuts/kernels.h"
#include "asyncopt/models/tiles.h"

namespace asyncopt::cuts {

// How threads share the vertices. The projection needs a whole row at once, so there is no sync
// that compare-exchanges single shares.
//
//              may lose updates   may tear   may block
//   hogwild    yes                yes        no         plain loads and stores (arXiv 1106.5730)
//   striped    no                 no         yes        both vertices of an edge are locked
//   mutex      no                 no         yes        one edge at a time
//   ordered    no                 no         for the    one round of tiles after the other, each
//                                            round      tile by one thread: bit-identical for any
//                                                       number of threads
struct Sync {
  const char* name;
  std::size_t locks = 0;  // vertex v has lock v % locks
  bool ordered = false;
};

inline constexpr Sync kSyncs[] = {
    {.name = "hogwild"},
    {.name = "striped", .locks = 4096},
    {.name = "mutex", .locks = 1},
    {.name = "ordered", .ordered = true},
};

struct Pass {
  Edges edges;
  Tiles tiles;
  float rate;
};

// Runs one pass. Returns the sum of the edges' losses; nothing if `go_on` returned false
// (asyncopt/models/tiles.h).
std::optional<double> train(const Sync& sync, std::size_t threads, const Pass& pass,
                            const Model& model, const std::function<bool()>& go_on);

}  // namespace asyncopt::cuts
