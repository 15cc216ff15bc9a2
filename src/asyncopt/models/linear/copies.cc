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

// FTRL. A sum consists of the part that l1 cancels and of the weight times its pull. The former is
// added up over the copies; the weights are merged like those of other steps, at their current
// values. Adding whole sums would also add the pulls to the points where gradients were taken.
// These grow with the root of the squares, and every copy starts from the same root, so their total
// would exceed that of the squares' total, and dense columns would diverge.
//
// The part that balances the growing penalty is added in full; a share of it would weigh the
// penalty more than the losses.
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

// The share of a copy's change that is added to the shared weight.
float Copies::share(std::size_t u, float rate, float examples) const {
  if (!strides_.empty()) return 1 / strides_[u];
  return merging_.average ? part() : sound_share(u, rate, examples);
}

// If each of W workers has gone most of the way to the same optimum, adding all changes would go W
// times as far. One worker's steps shrink a deviation to 1 / (1 + s) of it; W times as many steps
// would shrink it to about 1 / (1 + W s), so the share is chosen to give that.
float Copies::sound_share(std::size_t u, float rate, float examples) const {
  const float s = std::min(rate * merging_.curvatures[u] * examples, 1e30f);
  return (1 + s) / (1 + merging_.workers * s);
}

}  // namespace asyncopt::linear
