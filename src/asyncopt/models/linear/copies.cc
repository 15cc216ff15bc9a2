#include "asyncopt/models/linear/copies.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "asyncopt/models/linear/steps.h"

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
    : levels_(levels),
      merging_(merging),
      examples_(levels.all().size()),
      eta_(merging.settings.eta0) {
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
  if (!merging.kernel.strides) return;
  strides_.reserve(levels.columns());
  const float most = merging.settings.examples / merging.workers;
  for (const Levels::Level& level : levels.all())
    for (std::size_t u = level.begin; u < level.end; ++u)
      strides_.push_back(
          1 / sound_share(u, rate(u), std::min(static_cast<float>(level.merge_every), most)));
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
  const auto examples = static_cast<float>(examples_[i]);
  if (merging_.kernel.leads)
    merge_leaders(level, examples);
  else
    merge_changes(level, examples);
  copy(level);
  examples_[i] = 0;
}

void Copies::merge_changes(const Levels::Level& level, float examples) {
  if (!squares_.before.empty())
    for (std::size_t u = level.begin; u < level.end; ++u)
      squares_.shared[u] += part() * squares_.change(u);
  const bool follow = merging_.kernel.averages;  // the weights; else they are exact
  if (!sums_.before.empty())
    for (std::size_t u = level.begin; u < level.end; ++u)
      sums_.shared[u] += (follow ? share(u, rate(u), examples) : 1) * sums_.change(u);
  for (std::size_t u = level.begin; u < level.end; ++u)
    weights_.shared[u] += share(u, rate(u), examples) * weights_.change(u);
}

// A sum is the part that l1 holds, which is added up, and the weight times its pull. The weights
// are merged as those of other steps, each as it is now. Were whole sums added up, so would be the
// pulls to where gradients were taken: they go with the root of the squares, and each copy starts
// from the same root, so that together they would exceed that of all squares, and dense columns
// diverge.
//
// What keeps a sum where it is while the penalty grows is added in full: to count only a share of
// it would be to count the penalty more often than the losses.
void Copies::merge_leaders(const Levels::Level& level, float examples) {
  const Settings& settings = merging_.settings;
  for (std::size_t u = level.begin; u < level.end; ++u) {
    const float seen = settings.spacing[u] > 0 ? seen_ : 0;
    const float l1 = settings.l1 * seen, l2 = settings.l2 * seen;
    const auto weight = [&](float sum, float squares) {
      return Ftrl::weight(sum, squares, settings.eta0, l1, l2);
    };
    const auto pull = [&](float squares) { return Ftrl::pull(squares, settings.eta0, l2); };
    const auto held = [&](float sum) { return std::clamp(sum, -l1, l1); };
    float &sum = sums_.shared[u], &squares = squares_.shared[u];
    const float mine = sums_.mine[u], before = sums_.before[u];
    if (mine != before || squares_.change(u) != 0) {
      const float was = weight(before, squares_.before[u]);
      const float added = share(u, 1 / pull(squares_.mine[u]), examples);
      const float merged = weight(sum, squares) + added * (weight(mine, squares_.mine[u]) - was);
      const float kept = (held(before) - was * l2) * examples / seen_;
      squares += part() * squares_.change(u);
      sum = held(sum) + added * (held(mine) - held(before)) + (part() - added) * kept -
            merged * pull(squares);
    }
    weights_.shared[u] = weight(sum, squares);
  }
}

void Copies::copy(const Levels::Level& level) {
  for (Numbers* const numbers : {&weights_, &squares_, &sums_})
    if (!numbers->before.empty())
      for (std::size_t u = level.begin; u < level.end; ++u)
        numbers->mine[u] = numbers->before[u] = numbers->shared[u];
}

float Copies::rate(std::size_t u) const {
  return merging_.kernel.adaptive ? eta_ / (std::sqrt(squares_.mine[u]) + kEps) : eta_;
}

// What of a copy's change is added.
float Copies::share(std::size_t u, float rate, float examples) const {
  if (!strides_.empty()) return 1 / strides_[u];
  return merging_.average ? part() : sound_share(u, rate, examples);
}

// All of it would overshoot where each of W workers has gone most of the way to the same optimum:
// W times as far. After steps that shrink a deviation by 1 / (1 + s), W times as many shrink it by
// about 1 / (1 + W s), so that is what is aimed at.
float Copies::sound_share(std::size_t u, float rate, float examples) const {
  const float s = std::min(rate * merging_.curvatures[u] * examples, 1e30f);
  return (1 + s) / (1 + merging_.workers * s);
}

}  // namespace asyncopt::linear
