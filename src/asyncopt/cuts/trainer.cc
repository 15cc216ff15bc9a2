#include "asyncopt/cuts/trainer.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <vector>

#include "asyncopt/crew.h"
#include "asyncopt/isa.h"

ASYNCOPT_PER_ISA(cuts, ::asyncopt::cuts::Loop, loop)

namespace asyncopt::cuts {
namespace {

// The locks of both ends of an edge, of which each thread takes the lower one first.
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
  std::vector<std::size_t> after;
  if (sync.ordered) after.assign(pass.after.begin(), pass.after.end());
  std::vector<std::mutex> locks(sync.locks);
  std::vector<double> losses(pass.order.size());
  const Loop walk = loop();
  const bool whole = share_tasks(threads, losses.size(), after, go_on, [&](Member& member) {
    while (const auto place = member.take()) {
      const auto tile = static_cast<std::size_t>(pass.order[*place]);
      const auto first = static_cast<std::size_t>(pass.begin[tile]);
      const auto last = static_cast<std::size_t>(pass.begin[tile + 1]);
      if (sync.locks == 0) {
        losses[*place] = walk(pass.edges, first, last, model, pass.rate);
        continue;
      }
      for (std::size_t k = first; k < last; ++k) {
        const Ends both(locks, pass.edges.tails[k], pass.edges.heads[k]);
        losses[*place] += walk(pass.edges, k, k + 1, model, pass.rate);
      }
    }
  });
  if (!whole) return std::nullopt;
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace asyncopt::cuts
