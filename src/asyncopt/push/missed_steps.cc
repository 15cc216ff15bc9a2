#include "asyncopt/push/missed_steps.h"

#include <algorithm>

namespace asyncopt {

MissedSteps::MissedSteps(const Journal& journal, const Kernel& kernel, std::uint64_t oldest,
                         std::uint64_t now, const Record& own, std::size_t row_bytes)
    : journal_(journal),
      oldest_(std::max(oldest, journal.oldest(now))),
      now_(now),
      steps_(now - oldest_),
      map_bytes_(kernel.idle.coef_bytes),
      records_(steps_),
      zeros_(row_bytes) {
  double linear_after = 0;
  for (std::uint64_t i = 0; i < steps_; ++i) {
    if (!journal_.read(oldest_ + i + 1, records_[i])) records_[i] = own;
    linear_after = std::max(linear_after, records_[i].linear_after);
  }
  linear_after_ =
      static_cast<std::uint64_t>(std::min(linear_after, static_cast<double>(Journal::kRest)));
  if (linear_after_ == Journal::kRest) return;
  const std::size_t values = kernel.idle.values;
  double map[kMaxValues * kMaxValues] = {};
  for (std::size_t v = 0; v < values; ++v) map[v * values + v] = 1;
  maps_.resize(steps_ * map_bytes_);
  for (std::uint64_t i = steps_; i-- > 0;) {
    kernel.idle.compose(records_[i].coef, map);
    kernel.idle.coefficients(map, maps_.data() + i * map_bytes_);
  }
}

}  // namespace asyncopt
