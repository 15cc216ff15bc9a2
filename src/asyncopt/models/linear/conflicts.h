// Examples of a block that threads may step on at once, because they have no column in common: each
// step then reads and writes what it would in the serial order, and the result has its bits,
// whatever the number of threads (Cyclades; Pan et al., NIPS 2016).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace asyncopt::linear {

// Into which a block is cut. No two share a column. It does not follow the number of threads, so
// that the order of the examples does not either.
inline constexpr std::size_t kPieces = 16;

struct Conflicts {
  std::vector<std::int64_t> rows;    // those of each block, piece after piece
  std::vector<std::int64_t> pieces;  // where each begins in `rows`, and where the last one ends
  double longest;  // the entries in the longest piece of each block, as a share of all entries
};

// `rows` are the examples in their order, in blocks of `block`; row i has the columns begin[i] to
// begin[i + 1], checked to be in [0, count). The pieces are made of the connected components of the
// graph in which examples with a common column are neighbours; in each, rows keep their order.
template <class Index>
Conflicts find_conflicts(std::span<const std::int64_t> begin, std::span<const Index> columns,
                         std::size_t count, std::span<const std::int64_t> rows, std::size_t block,
                         std::size_t threads);

}  // namespace asyncopt::linear
