// Examples as the caller passes them, and their copy in the order of the visits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace asyncopt::linear {

// Compressed rows of the caller. A nonzero `intercept` adds a last column of that value.
template <class Index, class Value>
struct Csr {
  std::span<const std::int64_t> begin;  // rows + 1
  std::span<const Index> columns;
  std::span<const Value> values;
  float intercept;

  std::size_t rows() const { return begin.size() - 1; }
};

// Per column: the number of rows that have it, and the sum over these rows of the geometric mean of
// x^2 and |x| times the sum of the row's absolute values. The first factor is the curvature of the
// loss along the column alone, the second a bound on it when all columns move at once. Merged
// copies (copies.cc) would overshoot with the first alone and barely move with the second.
struct ColumnSums {
  std::span<std::int64_t> counts;
  std::span<double> masses;
};

// Adds to `to`. Throws std::invalid_argument before anything is written if the rows are malformed
// or name a column out of range.
template <class Index, class Value>
void count_columns(const Csr<Index, Value>& from, const ColumnSums& to);

// Destination of `arrange`. Row i of the copy is row order[i] of the original, with column u
// renumbered to number[u] and values rounded to float32. The caller provides `begin`; number.back()
// is the intercept's if there is one. Rows are split among `threads`.
struct Arranged {
  std::span<const std::int64_t> begin;  // rows + 1
  std::int32_t* columns;
  float* values;
};
template <class Index, class Value>
void arrange(const Csr<Index, Value>& from, std::span<const std::int64_t> order,
             std::span<const std::int32_t> number, std::size_t threads, const Arranged& to);

// Sums the rows, each times its factor, in float64.
void add_rows(const Csr<std::int32_t, float>& rows, std::span<const double> factors,
              std::span<double> to);

}  // namespace asyncopt::linear
