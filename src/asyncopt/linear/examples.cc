#include "asyncopt/linear/examples.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "asyncopt/parallel.h"

namespace asyncopt::linear {
namespace {

template <class Index, class Value>
void check(const Csr<Index, Value>& csr, std::size_t columns) {
  const auto entries = static_cast<std::int64_t>(csr.columns.size());
  if (csr.values.size() != csr.columns.size() || csr.begin.front() != 0 ||
      csr.begin.back() != entries || !std::is_sorted(csr.begin.begin(), csr.begin.end()))
    throw std::invalid_argument(
        "X: expected indptr to rise from 0 to the number of entries in indices and in data (" +
        std::to_string(entries) + "); rebuild it with scipy.sparse.csr_array");
  Index low = 0, high = -1;
  for (const Index column : csr.columns) {
    low = std::min(low, column);
    high = std::max(high, column);
  }
  if (low < 0 || high >= static_cast<std::int64_t>(columns))
    throw std::invalid_argument("X: expected column indices in [0, " + std::to_string(columns) +
                                "), got " + std::to_string(low < 0 ? low : high) +
                                "; rebuild it with scipy.sparse.csr_array");
}

}  // namespace

template <class Index, class Value>
void count_columns(const Csr<Index, Value>& from, const ColumnSums& to) {
  check(from, to.counts.size() - (from.intercept != 0 ? 1 : 0));
  for (std::size_t i = 0; i < from.rows(); ++i) {
    const auto first = static_cast<std::size_t>(from.begin[i]);
    const auto last = static_cast<std::size_t>(from.begin[i + 1]);
    double mass = from.intercept;
    for (std::size_t k = first; k < last; ++k) mass += std::abs(from.values[k]);
    for (std::size_t k = first; k < last; ++k) {
      const auto u = static_cast<std::size_t>(from.columns[k]);
      ++to.counts[u];
      const double x = std::abs(from.values[k]);
      to.masses[u] += x * std::sqrt(x * mass);
    }
    if (from.intercept != 0) {
      ++to.counts.back();
      to.masses.back() += from.intercept * std::sqrt(from.intercept * mass);
    }
  }
}

template <class Index, class Value>
void arrange(const Csr<Index, Value>& from, std::span<const std::int64_t> order,
             std::span<const std::int32_t> number, std::size_t threads, const Arranged& to) {
  constexpr std::size_t piece = 1024;  // rows
  parallel_for((order.size() + piece - 1) / piece, threads, [&](std::size_t p) {
    for (std::size_t i = p * piece; i < std::min((p + 1) * piece, order.size()); ++i) {
      const auto row = static_cast<std::size_t>(order[i]);
      const auto source = static_cast<std::size_t>(from.begin[row]);
      auto target = static_cast<std::size_t>(to.begin[i]);
      const auto n = static_cast<std::size_t>(from.begin[row + 1]) - source;
      if (from.intercept != 0) {
        to.columns[target] = number.back();
        to.values[target++] = from.intercept;
      }
      for (std::size_t k = 0; k < n; ++k) {
        to.columns[target + k] = number[static_cast<std::size_t>(from.columns[source + k])];
        to.values[target + k] = static_cast<float>(from.values[source + k]);
      }
    }
  });
}

void add_rows(const Csr<std::int32_t, float>& rows, std::span<const double> factors,
              std::span<double> to) {
  std::ranges::fill(to, 0.0);
  for (std::size_t i = 0; i < rows.rows(); ++i)
    for (auto k = static_cast<std::size_t>(rows.begin[i]);
         k < static_cast<std::size_t>(rows.begin[i + 1]); ++k)
      to[static_cast<std::size_t>(rows.columns[k])] += factors[i] * rows.values[k];
}

#define ASYNCOPT_INSTANTIATE(Index, Value)                                       \
  template void count_columns(const Csr<Index, Value>&, const ColumnSums&);      \
  template void arrange(const Csr<Index, Value>&, std::span<const std::int64_t>, \
                        std::span<const std::int32_t>, std::size_t, const Arranged&);
ASYNCOPT_INSTANTIATE(std::int32_t, float)
ASYNCOPT_INSTANTIATE(std::int32_t, double)
ASYNCOPT_INSTANTIATE(std::int64_t, float)
ASYNCOPT_INSTANTIATE(std::int64_t, double)
#undef ASYNCOPT_INSTANTIATE

}  // namespace asyncopt::linear
