#include "asyncopt/linear/copies.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "asyncopt/linear/steps.h"

namespace asyncopt::linear {

Levels::Levels(std::size_t columns, std::size_t merge_every) {
  constexpr std::size_t kFirst = 1024, kMore = 4;
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max() / kMore;
  std::size_t end = kFirst;
  for (std::size_t begin = 0; begin < columns; begin = all_.back().end) {
    all_.emplace_back(begin, std::min(end, columns), merge_every);
    end *= kMore;
    if (merge_every < kMost) merge_every *= kMore;
  }
}

Copies::Copies(Levels& levels, const Merging& merging, const Model& mine)
    : levels_(levels), merging_(merging), examples_(levels.all().size()) {
  const auto numbers = [&](float* shared, float* own, bool kept) {
    return Numbers{shared, own, std::vector<float>(kept ? levels.columns() : 0)};
  };
  weights_ = numbers(merging.shared.weights, mine.weights, true);
  squares_ = numbers(merging.shared.squares, mine.squares, merging.kernel.adaptive);
  sums_ = numbers(merging.shared.sums, mine.sums, merging.kernel.sums);
  for (Levels::Level& level : levels.all()) {
    const std::lock_guard lock(level.mutex);
    copy(level);
  }
}

void Copies::count(std::size_t examples, float eta, float seen) {
  eta_ = eta;
  seen_ = seen;
  for (std::size_t i = 0; i < examples_.size(); ++i) {
    examples_[i] += examples;
    if (examples_[i] >= levels_.all()[i].merge_every) merge(i);
  }
}

void Copies::merge() {
  for (std::size_t i = 0; i < examples_.size(); ++i) merge(i);
}

void Copies::merge(std::size_t i) {
  if (examples_[i] == 0) return;
  Levels::Level& level = levels_.all()[i];
  const std::lock_guard lock(level.mutex);
  if (!squares_.before.empty())
    for (std::size_t u = level.begin; u < level.end; ++u)
      squares_.shared[u] += part() * squares_.change(u);
  if (merging_.kernel.leads)
    merge_leaders(level);
  else
    merge_changes(level, static_cast<float>(examples_[i]));
  copy(level);
  examples_[i] = 0;
}

void Copies::merge_changes(const Levels::Level& level, float examples) {
  if (!sums_.before.empty())
    for (std::size_t u = level.begin; u < level.end; ++u)
      sums_.shared[u] += share(u, examples) * sums_.change(u);
  for (std::size_t u = level.begin; u < level.end; ++u)
    weights_.shared[u] += share(u, examples) * weights_.change(u);
}

void Copies::merge_leaders(const Levels::Level& level) {
  const Settings& settings = merging_.settings;
  for (std::size_t u = level.begin; u < level.end; ++u) {
    sums_.shared[u] += part() * sums_.change(u);
    const float examples = settings.spacing[u] > 0 ? seen_ : 0;
    weights_.shared[u] = Ftrl::weight(sums_.shared[u], squares_.shared[u], settings.eta0,
                                      settings.l1 * examples, settings.l2 * examples);
  }
}

void Copies::copy(const Levels::Level& level) {
  for (Numbers* const numbers : {&weights_, &squares_, &sums_})
    if (!numbers->before.empty())
      for (std::size_t u = level.begin; u < level.end; ++u)
        numbers->mine[u] = numbers->before[u] = numbers->shared[u];
}

// What of a copy's change is added. All of it would overshoot where each of W workers has gone
// most of the way to the same optimum: W times as far. After steps that shrink a deviation by
// 1 / (1 + s), W times as many shrink it by about 1 / (1 + W s), so that is what is aimed at.
float Copies::share(std::size_t u, float examples) const {
  if (merging_.average) return part();
  float eta = eta_;
  if (merging_.kernel.adaptive) eta /= std::sqrt(squares_.mine[u]) + kEps;
  const float s = std::min(eta * merging_.curvatures[u] * examples, 1e30f);
  return (1 + s) / (1 + merging_.workers * s);
}

}  // namespace asyncopt::linear
