#include "asyncopt/models/linear/trainer.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "asyncopt/base/parallel.h"
#include "asyncopt/base/tasks.h"

namespace asyncopt::linear {
namespace {

// Number of columns that each worker copies, rounded up to whole pages: other columns on a private
// page would be neither shared nor merged. All columns if the step keeps numbers of examples, which
// a lost update would make wrong.
std::size_t copied(const Kernel& kernel, const Sync& sync, std::size_t columns, std::size_t workers,
                   std::size_t examples) {
  const std::size_t most = std::min(sync.own, sync.average ? kAll : examples);
  if (workers == 1 || most == 0) return 0;  // a single worker needs no copy
  if (most >= columns || kernel.notes > 0) return columns;
  return std::min(columns, Memory::whole_pages(most * sizeof(float)) / sizeof(float));
}

// Factor by which merges are more frequent for steps without a falling learning rate. On text, two
// threads then need 1.1 times the passes of one instead of 1.2; a pass takes 1.1 times as long.
constexpr std::size_t kMoreOften = 4;

}  // namespace

// One thread's part of a pass.
class Trainer::Worker {
 public:
  Worker(Trainer& trainer, const Pass& pass, std::size_t rank)
      : trainer_(trainer),
        pass_(pass),
        settings_(pass.settings),
        model_{reinterpret_cast<float*>(trainer.weights_.view(rank)),
               reinterpret_cast<float*>(trainer.squares_.view(rank)),
               reinterpret_cast<float*>(trainer.sums_.view(rank)), nullptr},
        copies_(
            trainer.levels_,
            {trainer.kernel_,
             pass.settings,
             pass.curvatures,
             {trainer.weights().data(), trainer.squares().data(), trainer.sums().data(), nullptr},
             static_cast<float>(trainer.workers_),
             trainer.sync_.average},
            model_) {
    const std::size_t blocks = (pass.count + pass.block - 1) / pass.block;
    missing_ = blocks * pass.block - pass.count;
    const auto last = std::ranges::find(pass.order, static_cast<std::int64_t>(blocks) - 1);
    short_place_ = static_cast<std::size_t>(last - pass.order.begin());
    const bool penalized = pass.settings.l1 > 0 || pass.settings.l2 > 0;
    const Loops& loops = trainer.kernel_.loops;
    const Sync& sync = trainer.sync_;
    const bool several = trainer.workers_ > 1;
    const bool all_copied = trainer.levels_.columns() == trainer.columns_;
    const bool alone = !several || all_copied || sync.locked || sync.in_turn || sync.ordered;
    settings_.strides = copies_.strides();
    loop_ = (sync.atomic ? loops.atomic : alone ? loops.alone : loops.racy)[penalized];
    if (several && sync.in_turn) model_.seat = &seat_.emplace(trainer.round_, rank);
  }

  // Steps on the blocks, or pieces, that `member` takes. Writes the loss of each to `losses`.
  void work(Member& member, std::span<double> losses) {
    while (const auto task = member.take()) {
      Range range = rows_of(*task);
      if (trainer_.kernel_.leads && trainer_.sync_.average)
        range.t /= trainer_.workers_;  // this worker's own examples
      losses[*task] = step(range);
      const std::size_t examples = range.last - range.first;
      copies_.count(examples, pass_.settings.rate(range.t), static_cast<float>(range.t + examples));
    }
    copies_.merge();
  }

 private:
  // The rows [first, last); `t` counts the examples before them since the start.
  struct Range {
    std::size_t first, last;
    std::uint64_t t;
  };

  Range rows_of(std::size_t task) const {
    const std::size_t pieces = pass_.pieces_each(), place = task / pieces;
    const auto block = static_cast<std::size_t>(pass_.order[place]);
    Range range{block * pass_.block, std::min((block + 1) * pass_.block, pass_.count),
                pass_.t + place * pass_.block};
    if (place > short_place_) range.t -= missing_;
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
    if (!trainer_.sync_.locked) return loop_(pass_.rows, first, last, t, model_, settings_);
    double losses = 0;
    for (std::size_t i = first; i < last; ++i) {
      const std::lock_guard lock(trainer_.mutex_);
      losses += loop_(pass_.rows, i, i + 1, t + (i - first), model_, settings_);
    }
    return losses;
  }

  Trainer& trainer_;
  const Pass& pass_;
  Settings settings_;
  Model model_;
  std::optional<Round::Seat> seat_;
  Copies copies_;
  Loop loop_;
  std::size_t short_place_, missing_;  // place of the last block, and the rows that it lacks
};

Trainer::Trainer(const Kernel& kernel, const Sync& sync, std::size_t columns, std::size_t workers,
                 std::size_t examples)
    : kernel_(kernel),
      sync_(sync),
      columns_(columns),
      workers_(workers),
      levels_(copied(kernel, sync, columns, workers, examples),
              sync.merge_every / (kernel.notes > 0 ? kMoreOften : 1)),
      weights_(bytes(true), workers, own_bytes(true)),
      squares_(bytes(kernel.adaptive), workers, own_bytes(kernel.adaptive)),
      sums_(bytes(kernel.sums), workers, own_bytes(kernel.sums)),
      round_(workers) {}

std::size_t Trainer::bytes_needed(const Kernel& kernel, const Sync& sync, std::size_t columns,
                                  std::size_t workers, std::size_t examples) {
  const std::size_t own = copied(kernel, sync, columns, workers, examples);
  const auto of = [&](bool kept) {
    return Memory::bytes_needed(kept ? columns * sizeof(float) : 0, workers,
                                kept ? own * sizeof(float) : 0);
  };
  return of(true) + of(kernel.adaptive) + of(kernel.sums);
}

std::optional<double> Trainer::run(const Pass& pass, const std::function<bool()>& go_on) {
  const std::size_t pieces = pass.pieces_each(), tasks = pass.order.size() * pieces;
  std::vector<std::size_t> after;  // tasks that must end first: those of the blocks before
  if (sync_.ordered)
    for (std::size_t task = 0; task < tasks; ++task) after.push_back(task / pieces * pieces);
  std::vector<double> losses(tasks);
  const bool whole = share_tasks(workers_, tasks, after, go_on, [&](Member& member) {
    Worker(*this, pass, member.rank()).work(member, losses);
  });
  if (!whole) return std::nullopt;
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

double Trainer::gauge(const Rows& rows, std::size_t count, const Settings& settings,
                      const Gauging& to) {
  // Each part sums its own gradient; the number of parts keeps that cheap compared with the
  // entries.
  constexpr std::size_t kEntries = 32, kMost = 8;
  const auto entries = static_cast<std::size_t>(rows.begin[count]);
  const std::size_t parts =
      std::clamp(entries / (kEntries * (columns_ + 1)), std::size_t{1}, kMost);
  std::vector<double> losses(parts), others((parts - 1) * columns_);
  std::fill_n(to.gradient, columns_, 0.0);
  parallel_for(parts, workers_, [&](std::size_t p) {
    Gauging mine = to;
    if (p > 0) mine.gradient = others.data() + (p - 1) * columns_;
    losses[p] =
        kernel_.loops.gauge(rows, p * count / parts, (p + 1) * count / parts, settings, mine);
  });
  for (std::size_t p = 0; p + 1 < parts; ++p)
    for (std::size_t u = 0; u < columns_; ++u) to.gradient[u] += others[p * columns_ + u];
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace asyncopt::linear
