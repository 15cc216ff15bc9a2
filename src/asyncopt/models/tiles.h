// Passes over entries that name two rows each: ratings of users and items, edges of vertices.
//
// Rows are cut into groups. A tile holds the entries between two groups, or within one, so its rows
// stay in a core's cache. Threads on different tiles rarely touch the same rows; tiles of one round
// share no group, so there threads never do (Gemulla et al., KDD 2011).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace asyncopt {

struct Tiles {
  std::span<const std::int64_t> begin;  // first entry of each tile, and the end of the last
  std::span<const std::int64_t> order;  // order of the tiles
  std::size_t groups;                   // consecutive tiles per round
};

// Calls step(first, last) for the entries of each tile. A free thread takes the next tile in order;
// if `ordered`, only after the round before is done. Returns the sum of the results of `step`,
// added up in tile order; nothing if `go_on`, polled about 20 times per second, returned false.
std::optional<double> share_tiles(std::size_t threads, const Tiles& tiles, bool ordered,
                                  const std::function<bool()>& go_on,
                                  const std::function<double(std::size_t, std::size_t)>& step);

}  // namespace asyncopt
