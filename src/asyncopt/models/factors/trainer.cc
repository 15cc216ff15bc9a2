#include "asyncopt/models/factors/trainer.h"

#include <mutex>

#include "asyncopt/base/isa.h"

ASYNCOPT_PER_ISA(factors, std::span<const ::asyncopt::factors::Kernel>, table)

namespace asyncopt::factors {

std::span<const Kernel> kernels() { return picked_table(); }

std::optional<double> train(const Kernel& kernel, const Sync& sync, std::size_t threads,
                            const Pass& pass, const Model& model,
                            const std::function<bool()>& go_on) {
  std::mutex mutex;
  const auto step = [&](std::size_t first, std::size_t last) {
    return (sync.atomic ? kernel.atomic : kernel.racy)(pass.entries, pass.liked, first, last, model,
                                                       pass.settings);
  };
  return share_tiles(threads, pass.tiles, sync.ordered, go_on,
                     [&](std::size_t first, std::size_t last) {
                       if (!sync.locked) return step(first, last);
                       double losses = 0;
                       for (std::size_t k = first; k < last; ++k) {
                         const std::lock_guard lock(mutex);
                         losses += step(k, k + 1);
                       }
                       return losses;
                     });
}

}  // namespace asyncopt::factors
