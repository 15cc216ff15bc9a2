#include "asyncopt/push/rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace asyncopt {

namespace {

constexpr unsigned kDigit = 11;  // bits: counters of 16 KiB stay in the first-level cache
// Below this many entries a comparison sort is faster than a radix sort.
constexpr std::size_t kFew = 128;

}  // namespace

RowOrder::RowOrder(std::span<const std::int64_t> rows) : entries_(rows.size()) {
  std::size_t largest = 0, before = 0;
  bool sorted = true;
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const auto row = static_cast<std::size_t>(rows[place]);
    entries_[place] = {row, place};
    sorted &= before <= row;
    largest = std::max(largest, row);
    before = row;
  }
  if (!sorted) sort(largest);
  if (entries_.empty()) return;
  starts_.reserve(rows.size() + 1);
  starts_.push_back(0);
  for (std::size_t e = 1; e < entries_.size(); ++e)
    if (entries_[e].row != entries_[e - 1].row) starts_.push_back(e);
  starts_.push_back(entries_.size());
}

// Stable: the gradients of a row keep their order, so their sum is reproducible.
void RowOrder::sort(std::size_t largest) {
  if (entries_.size() < kFew) {
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return std::pair(a.row, a.place) < std::pair(b.row, b.place);
    });
    return;
  }
  // Radix sort by the row, lowest digit first.
  std::vector<Entry> other(entries_.size());
  const unsigned bits = static_cast<unsigned>(std::bit_width(largest));
  for (unsigned shift = 0; shift < bits; shift += kDigit) {
    std::array<std::size_t, std::size_t{1} << kDigit> at{};
    const auto digit = [shift, mask = at.size() - 1](const Entry& e) {
      return e.row >> shift & mask;
    };
    for (const Entry& e : entries_) ++at[digit(e)];
    std::size_t sum = 0;
    for (std::size_t& count : at) sum += std::exchange(count, sum);
    for (const Entry& e : entries_) other[at[digit(e)]++] = e;
    entries_.swap(other);
  }
}

}  // namespace asyncopt
