#include "asyncopt/models/cuts/trainer.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "asyncopt/base/isa.h"

ASYNCOPT_PER_ISA(cuts, ::asyncopt::cuts::Loop, loop)

namespace asyncopt::cuts {
namespace {

// Holds the locks of both ends of an edge. The lower one is taken first, which excludes deadlock.
class Ends {
 public:
  Ends(std::vector<std::mutex>& locks, std::int32_t tail, std::int32_t head) {
    const std::size_t one = static_cast<std::size_t>(tail) % locks.size();
    const std::size_t other = static_cast<std::size_t>(head) % locks.size();
    low_ = std::unique_lock(locks[std::min(one, other)]);
    if (one != other) high_ = std::unique_lock(locks[std::max(one, other)]);
  }

 private:
  std::unique_lock<std::mutex> low_, high_;
};

}  // namespace

Loop loop() { return picked_loop(); }

std::optional<double> train(const Sync& sync, std::size_t threads, const Pass& pass,
                            const Model& model, const std::function<bool()>& go_on) {
  std::vector<std::mutex> locks(sync.locks);
  const Loop walk = loop();
  return share_tiles(threads, pass.tiles, sync.ordered, go_on,
                     [&](std::size_t first, std::size_t last) {
                       if (locks.empty()) return walk(pass.edges, first, last, model, pass.rate);
                       double losses = 0;
                       for (std::size_t k = first; k < last; ++k) {
                         const Ends both(locks, pass.edges.tails[k], pass.edges.heads[k]);
                         losses += walk(pass.edges, k, k + 1, model, pass.rate);
                       }
                       return losses;
                     });
}

}  // namespace asyncopt::cuts
