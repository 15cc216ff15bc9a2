#include "asyncopt/linear/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "asyncopt/crew.h"
#include "asyncopt/linear/steps.h"

namespace asyncopt::linear {

// One thread's part of a pass.
class Trainer::Worker {
 public:
  Worker(Trainer& trainer, const Pass& pass, std::size_t rank)
      : trainer_(trainer),
        pass_(pass),
        model_{reinterpret_cast<float*>(trainer.weights_.view(rank)),
               reinterpret_cast<float*>(trainer.squares_.view(rank)),
               reinterpret_cast<float*>(trainer.sums_.view(rank)), nullptr},
        weights_(trainer.own_),
        squares_(trainer.kernel_.adaptive ? trainer.own_ : 0),
        sums_(trainer.kernel_.sums ? trainer.own_ : 0) {
    const bool penalized = pass.settings.l1 > 0 || pass.settings.l2 > 0;
    const Loops& loops = trainer.kernel_.loops;
    const Sync& sync = trainer.sync_;
    const bool several = trainer.workers_ > 1;
    const bool alone = !several || sync.locked || sync.in_turn || sync.ordered;
    loop_ = (sync.atomic ? loops.atomic : alone ? loops.alone : loops.racy)[penalized];
    if (several && sync.in_turn) model_.seat = &seat_.emplace(trainer.round_, rank);
    const std::lock_guard lock(trainer.mutex_);
    copy();
  }

  // Steps on the blocks, or pieces, that the member gets; `losses` are those of each.
  void work(Member& member, std::span<double> losses) {
    while (const auto task = member.take()) {
      Range range = rows_of(*task);
      if (trainer_.kernel_.leads && trainer_.sync_.average)
        range.t /= trainer_.workers_;  // its own
      eta_ = pass_.settings.eta0 / (1 + pass_.settings.decay * static_cast<float>(range.t));
      losses[*task] = step(range);
      seen_ = static_cast<float>(range.t + (range.last - range.first));
      since_merge_ += range.last - range.first;
      if (since_merge_ >= trainer_.sync_.merge_every) merge();
    }
    merge();
  }

 private:
  // The rows [first, last), of which the first is the t-th since the beginning.
  struct Range {
    std::size_t first, last;
    std::uint64_t t;
  };

  Range rows_of(std::size_t task) const {
    const std::size_t pieces = pass_.pieces_each(), place = task / pieces;
    const auto block = static_cast<std::size_t>(pass_.order[place]);
    Range range{block * pass_.block, std::min((block + 1) * pass_.block, pass_.count),
                pass_.t + place * pass_.block};
    if (!pass_.pieces.empty()) {
      const std::int64_t* const piece = &pass_.pieces[block * pieces + task % pieces];
      range.t += static_cast<std::size_t>(piece[0]) - range.first;
      range.first = static_cast<std::size_t>(piece[0]);
      range.last = static_cast<std::size_t>(piece[1]);
    }
    return range;
  }

  double step(const Range& range) {
    const auto [first, last, t] = range;
    if (!trainer_.sync_.locked) return loop_(pass_.rows, first, last, t, model_, pass_.settings);
    double losses = 0;
    for (std::size_t i = first; i < last; ++i) {
      const std::lock_guard lock(trainer_.mutex_);
      losses += loop_(pass_.rows, i, i + 1, t + (i - first), model_, pass_.settings);
    }
    return losses;
  }

  void copy() {
    for (std::size_t u = 0; u < weights_.size(); ++u)
      model_.weights[u] = weights_[u] = trainer_.weights()[u];
    for (std::size_t u = 0; u < squares_.size(); ++u)
      model_.squares[u] = squares_[u] = trainer_.squares()[u];
    for (std::size_t u = 0; u < sums_.size(); ++u) model_.sums[u] = sums_[u] = trainer_.sums()[u];
  }

  // What of a copy's change is added. All of it would overshoot where each of W workers has gone
  // most of the way to the same optimum: W times as far. After steps that shrink a deviation by
  // 1 / (1 + s), W times as many shrink it by about 1 / (1 + W s), so that is what is aimed at.
  float share(std::size_t u) const {
    const auto workers = static_cast<float>(trainer_.workers_);
    if (trainer_.sync_.average) return 1 / workers;
    float eta = eta_;
    if (trainer_.kernel_.adaptive) eta /= std::sqrt(model_.squares[u]) + kEps;
    const float s = eta * pass_.curvatures[u] * static_cast<float>(since_merge_);
    return (1 + s) / (1 + workers * s);
  }

  // Of what is a sum over examples.
  float part() const {
    return trainer_.sync_.average ? 1 / static_cast<float>(trainer_.workers_) : 1;
  }

  void merge() {
    if (weights_.empty() || since_merge_ == 0) return;
    const std::lock_guard lock(trainer_.mutex_);
    const std::span<float> squares = trainer_.squares();
    for (std::size_t u = 0; u < squares_.size(); ++u)
      squares[u] += part() * (model_.squares[u] - squares_[u]);
    trainer_.kernel_.leads ? merge_leaders() : merge_changes();
    copy();
    since_merge_ = 0;
  }

  void merge_changes() {
    const std::span<float> weights = trainer_.weights(), sums = trainer_.sums();
    for (std::size_t u = 0; u < sums_.size(); ++u)
      sums[u] += share(u) * (model_.sums[u] - sums_[u]);
    for (std::size_t u = 0; u < weights_.size(); ++u)
      weights[u] += share(u) * (model_.weights[u] - weights_[u]);
  }

  void merge_leaders() {
    const Settings& settings = pass_.settings;
    const std::span<float> weights = trainer_.weights(), sums = trainer_.sums();
    for (std::size_t u = 0; u < weights_.size(); ++u) {
      sums[u] += part() * (model_.sums[u] - sums_[u]);
      const float examples = settings.spacing[u] > 0 ? seen_ : 0;
      weights[u] = Ftrl::weight(sums[u], trainer_.squares()[u], settings.eta0,
                                settings.l1 * examples, settings.l2 * examples);
    }
  }

  Trainer& trainer_;
  const Pass& pass_;
  Model model_;
  std::optional<Round::Seat> seat_;
  std::vector<float> weights_, squares_, sums_;  // the own copies as they were when merged last
  Loop loop_;
  float eta_ = 0;                // at the block before
  float seen_ = 0;               // examples since the beginning, at the end of it
  std::size_t since_merge_ = 0;  // examples
};

Trainer::Trainer(const Kernel& kernel, const Sync& sync, std::size_t columns, std::size_t workers)
    : kernel_(kernel),
      sync_(sync),
      columns_(columns),
      workers_(workers),
      own_(workers > 1 ? std::min(sync.own, columns) : 0),  // one alone shares with nobody
      weights_(columns * sizeof(float), workers, own_ * sizeof(float)),
      squares_(kernel.adaptive ? columns * sizeof(float) : 0, workers,
               kernel.adaptive ? own_ * sizeof(float) : 0),
      sums_(kernel.sums ? columns * sizeof(float) : 0, workers,
            kernel.sums ? own_ * sizeof(float) : 0),
      round_(workers) {
  if (own_ > 0 && !kernel.merges)
    throw std::invalid_argument(
        std::string("sync: expected one without copies, which cannot be merged with ") +
        kernel.step + "; got " + sync.name);
}

std::optional<double> Trainer::run(const Pass& pass, const std::function<bool()>& go_on) {
  const std::size_t pieces = pass.pieces_each(), tasks = pass.order.size() * pieces;
  std::vector<std::size_t> after;  // the blocks before have ended
  if (sync_.ordered)
    for (std::size_t task = 0; task < tasks; ++task) after.push_back(task / pieces * pieces);
  std::vector<double> losses(tasks);
  const bool whole = share_tasks(workers_, tasks, after, go_on, [&](Member& member) {
    Worker(*this, pass, member.rank()).work(member, losses);
  });
  if (!whole) return std::nullopt;
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace asyncopt::linear
