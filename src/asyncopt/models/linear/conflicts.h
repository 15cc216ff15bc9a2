// Conflict-free schedules (Cyclades; Pan et al., NIPS 2016): examples of a block that threads step
// on at once because they have no column in common. Every step reads and writes the same values as
// in the serial order, so the result is bit-identical for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace asyncopt::linear {

// Pieces of a block; no two share a column. The number is fixed, so the order of the examples does
// not depend on the number of threads.
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
