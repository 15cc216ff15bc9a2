#include "asyncopt/models/linear/conflicts.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "asyncopt/base/parallel.h"

namespace asyncopt::linear {
namespace {

// The connected components of one block's examples, which go by their place in it.
class Components {
 public:
  Components(std::size_t columns, std::size_t block) : last_(columns), parent_(block) {}

  void reset(std::size_t size) {
    std::iota(parent_.begin(), parent_.begin() + static_cast<std::ptrdiff_t>(size), 0);
    ++epoch_;
  }

  // Of an example that was not seen since `reset`.
  template <class Index>
  void add(std::size_t example, std::span<const Index> columns) {
    for (const Index u : columns) {
      Last& last = last_[static_cast<std::size_t>(u)];
      if (last.epoch == epoch_) join(example, last.example);
      last = {epoch_, static_cast<std::uint32_t>(example)};
    }
  }

  // An example that stands for its component.
  std::size_t of(std::size_t example) {
    while (parent_[example] != example) {
      parent_[example] = parent_[parent_[example]];
      example = parent_[example];
    }
    return example;
  }

 private:
  struct Last {
    std::uint32_t epoch = 0, example = 0;
  };

  void join(std::size_t a, std::size_t b) {
    a = of(a);
    b = of(b);
    parent_[std::max(a, b)] = std::min(a, b);
  }

  std::vector<Last> last_;  // of each column: who had it
  std::vector<std::size_t> parent_;
  std::uint32_t epoch_ = 0;
};

// Deals weights to kPieces pieces, the heaviest first, each to the piece that has least.
class Deal {
 public:
  // `weights` of 0 go to no piece.
  explicit Deal(const std::vector<std::int64_t>& weights) : piece_(weights.size()) {
    std::vector<std::size_t> order(weights.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater{}, [&](std::size_t i) { return weights[i]; });
    for (const std::size_t i : order) {
      if (weights[i] == 0) break;
      const auto least = std::ranges::min_element(loads_);
      *least += weights[i];
      piece_[i] = static_cast<std::size_t>(least - loads_.begin());
    }
  }

  std::size_t piece(std::size_t i) const { return piece_[i]; }
  std::int64_t heaviest() const { return std::ranges::max(loads_); }

 private:
  std::array<std::int64_t, kPieces> loads_{};
  std::vector<std::size_t> piece_;
};

}  // namespace

template <class Index>
Conflicts find_conflicts(std::span<const std::int64_t> begin, std::span<const Index> columns,
                         std::size_t count, std::span<const std::int64_t> rows, std::size_t block,
                         std::size_t threads) {
  const std::size_t blocks = (rows.size() + block - 1) / block;
  Conflicts found{std::vector<std::int64_t>(rows.size()),
                  std::vector<std::int64_t>(blocks * kPieces + 1), 0};
  found.pieces.back() = static_cast<std::int64_t>(rows.size());
  std::vector<std::int64_t> longest(blocks), all(blocks);

  const auto columns_of = [&](std::int64_t row) {
    const auto i = static_cast<std::size_t>(row);
    return columns.subspan(static_cast<std::size_t>(begin[i]),
                           static_cast<std::size_t>(begin[i + 1] - begin[i]));
  };
  const auto split = [&](std::size_t b, Components& components) {
    const std::size_t first = b * block, size = std::min(block, rows.size() - first);
    components.reset(size);
    for (std::size_t i = 0; i < size; ++i) components.add(i, columns_of(rows[first + i]));
    std::vector<std::int64_t> weights(size);
    for (std::size_t i = 0; i < size; ++i)  // an example without entries costs something too
      weights[components.of(i)] += 1 + std::ssize(columns_of(rows[first + i]));
    const Deal deal(weights);
    std::array<std::vector<std::int64_t>, kPieces> members;
    for (std::size_t i = 0; i < size; ++i)
      members[deal.piece(components.of(i))].push_back(rows[first + i]);
    std::size_t at = first;
    for (std::size_t p = 0; p < kPieces; ++p) {
      found.pieces[b * kPieces + p] = static_cast<std::int64_t>(at);
      std::ranges::copy(members[p], found.rows.begin() + static_cast<std::ptrdiff_t>(at));
      at += members[p].size();
    }
    longest[b] = deal.heaviest();
    all[b] = std::reduce(weights.begin(), weights.end());
  };

  const std::size_t workers = std::clamp<std::size_t>(threads, 1, std::max<std::size_t>(blocks, 1));
  std::vector<Components> components(workers, Components(count, block));
  parallel_for(workers, workers, [&](std::size_t worker) {
    for (std::size_t b = worker * blocks / workers; b < (worker + 1) * blocks / workers; ++b)
      split(b, components[worker]);
  });
  const auto sum = [](const auto& numbers) {
    return static_cast<double>(std::reduce(numbers.begin(), numbers.end()));
  };
  found.longest = rows.empty() ? 0 : sum(longest) / sum(all);
  return found;
}

template Conflicts find_conflicts(std::span<const std::int64_t>, std::span<const std::int32_t>,
                                  std::size_t, std::span<const std::int64_t>, std::size_t,
                                  std::size_t);
template Conflicts find_conflicts(std::span<const std::int64_t>, std::span<const std::int64_t>,
                                  std::size_t, std::span<const std::int64_t>, std::size_t,
                                  std::size_t);

}  // namespace asyncopt::linear
