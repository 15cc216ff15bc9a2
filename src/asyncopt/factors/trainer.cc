#include "asyncopt/factors/trainer.h"

#include <mutex>
#include <numeric>
#include <vector>

#include "asyncopt/crew.h"
#include "asyncopt/isa.h"

ASYNCOPT_PER_ISA(factors, std::span<const ::asyncopt::factors::Kernel>, table)

namespace asyncopt::factors {

std::span<const Kernel> kernels() { return picked_table(); }

std::optional<double> train(const Kernel& kernel, const Sync& sync, std::size_t threads,
                            const Pass& pass, const Model& model,
                            const std::function<bool()>& go_on) {
  const std::size_t tiles = pass.order.size();
  std::vector<std::size_t> after;
  if (sync.ordered)
    for (std::size_t t = 0; t < tiles; ++t) after.push_back(t / pass.groups * pass.groups);
  std::mutex mutex;
  std::vector<double> losses(tiles);
  const auto step = [&](std::size_t first, std::size_t last) {
    return (sync.atomic ? kernel.atomic : kernel.racy)(pass.entries, pass.liked, first, last, model,
                                                       pass.settings);
  };
  const bool whole = share_tasks(threads, tiles, after, go_on, [&](Member& member) {
    while (const auto place = member.take()) {
      const auto tile = static_cast<std::size_t>(pass.order[*place]);
      const auto first = static_cast<std::size_t>(pass.begin[tile]);
      const auto last = static_cast<std::size_t>(pass.begin[tile + 1]);
      if (!sync.locked) {
        losses[*place] = step(first, last);
        continue;
      }
      for (std::size_t k = first; k < last; ++k) {
        const std::lock_guard lock(mutex);
        losses[*place] += step(k, k + 1);
      }
    }
  });
  if (!whole) return std::nullopt;
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace asyncopt::factors
