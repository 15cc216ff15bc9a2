// Passes over the edges of a graph by several threads.
//
// Edges lie in tiles: the vertices are cut into groups, and a tile has the edges between two groups
// or within one. Its rows stay in a core's cache, and threads that work on different tiles seldom
// meet; tiles of one round, as of a tournament in which every group plays every other, never do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "asyncopt/cuts/kernels.h"

namespace asyncopt::cuts {

// How threads share the vertices. The projection needs a whole row at once, so that there is no
// sync by compare-exchange of single shares.
//
//              may lose updates   may tear   may block
//   hogwild    yes                yes        no         plain loads and stores (arXiv 1106.5730)
//   striped    no                 no         yes        both vertices of an edge are locked
//   mutex      no                 no         yes        one edge at a time
//   ordered    no                 no         for the    tiles of a round at a time, each by one
//                                            round      thread: the same bits whatever the number
//                                                       of threads
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
  std::span<const std::int64_t> begin;  // of each tile, and the end of the last
  std::span<const std::int64_t> order;  // of the tiles
  std::span<const std::int64_t> after;  // of each place in the order: where its round begins
  float rate;
};

// Threads take the tiles in order, each the next one when it is free. Returns the sum of the
// losses of the edges; nothing once `go_on`, asked some 20 times a second, said no.
std::optional<double> train(const Sync& sync, std::size_t threads, const Pass& pass,
                            const Model& model, const std::function<bool()>& go_on);

}  // namespace asyncopt::cuts
