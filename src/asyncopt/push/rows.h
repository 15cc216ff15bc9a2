// The distinct rows of a sparse gradient, in memory order, each with the places of all its
// gradients.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace asyncopt {

class RowOrder {
 public:
  RowOrder() = default;
  // `rows` are non-negative, in any order, and may repeat.
  explicit RowOrder(std::span<const std::int64_t> rows);

  std::size_t size() const { return starts_.empty() ? 0 : starts_.size() - 1; }
  std::size_t row(std::size_t i) const { return entries_[starts_[i]].row; }
  // Calls each(place) for the places of the i-th row's gradients among `rows`, in their order.
  template <class Each>
  void for_each_place(std::size_t i, Each each) const {
    for (std::size_t e = starts_[i]; e < starts_[i + 1]; ++e) each(entries_[e].place);
  }
  std::size_t place(std::size_t i) const { return entries_[starts_[i]].place; }
  bool contains(std::size_t row) const {
    return std::ranges::binary_search(entries_, row, {}, &Entry::row);
  }
  bool is_repeated(std::size_t i) const { return starts_[i + 1] - starts_[i] > 1; }

 private:
  struct Entry {
    std::size_t row, place;
  };

  void sort(std::size_t largest);

  std::vector<Entry> entries_;       // by row, then by place
  std::vector<std::size_t> starts_;  // first entry of each row, and the end
};

}  // namespace asyncopt
