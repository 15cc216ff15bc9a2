// Passes over entries that name two rows each: ratings of users and items, edges of vertices.
//
// Entries lie in tiles: rows are cut into groups, and a tile has the entries of one group and one
// other, or the same. Its rows stay in a core's cache, and threads that work on different tiles
// seldom meet; those on tiles of one round, which share no group, never do (Gemulla et al., KDD
// 2011).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace asyncopt {

struct Tiles {
  std::span<const std::int64_t> begin;  // of each tile, and the end of the last
  std::span<const std::int64_t> order;  // of the tiles
  std::size_t groups;                   // so many in a row are a round
};

// Calls step(first, last) for the entries of each tile. Threads take the tiles in order, each the
// next one when it is free; if `ordered`, only once the round before is done. Returns the sum of
// what the steps return, added up in that order; nothing once `go_on`, asked some 20 times a
// second, said no.
std::optional<double> share_tiles(std::size_t threads, const Tiles& tiles, bool ordered,
                                  const std::function<bool()>& go_on,
                                  const std::function<double(std::size_t, std::size_t)>& step);

}  // namespace asyncopt
