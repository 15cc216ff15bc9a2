// Examples as they come, and their copy in the order in which they are visited.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace asyncopt::linear {

// Compressed rows as they come. `intercept` adds a last column, of that value; 0: none.
template <class Index, class Value>
struct Csr {
  std::span<const std::int64_t> begin;  // rows + 1
  std::span<const Index> columns;
  std::span<const Value> values;
  float intercept;

  std::size_t rows() const { return begin.size() - 1; }
};

// Of each column: the number of rows that have it, and the sum over them of the geometric mean of
// x^2 and |x| times the sum of the row's absolute values: of the curvature of the loss along the
// column alone, and of a bound of it when all columns move at once. Merged copies (copies.cc)
// would overshoot by the first alone, and hardly move by the second.
struct ColumnSums {
  std::span<std::int64_t> counts;
  std::span<double> masses;
};

// Adds to `to`. Throws std::invalid_argument, before anything is written, where the rows are not
// the columns'.
template <class Index, class Value>
void count_columns(const Csr<Index, Value>& from, const ColumnSums& to);

// Row i of the copy is row order[i] of the original, with column u numbered number[u] and values
// rounded to float32; begin[i] is given, and number.back() is the intercept's if there is one. Rows
// are split among `threads`.
struct Arranged {
  std::span<const std::int64_t> begin;  // rows + 1
  std::int32_t* columns;
  float* values;
};
template <class Index, class Value>
void arrange(const Csr<Index, Value>& from, std::span<const std::int64_t> order,
             std::span<const std::int32_t> number, std::size_t threads, const Arranged& to);

// The sum of the rows, each times its factor, in float64.
void add_rows(const Csr<std::int32_t, float>& rows, std::span<const double> factors,
              std::span<double> to);

}  // namespace asyncopt::linear
