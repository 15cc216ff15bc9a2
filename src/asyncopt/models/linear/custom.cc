#include "asyncopt/models/linear/custom.h"

#include <cmath>

namespace asyncopt::linear {

void CustomLoss::keep(const At& at) {
  if (!std::isfinite(at.prediction)) return;  // is not the function's fault
  if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = at;
}

std::optional<CustomLoss::At> CustomLoss::failure() const {
  if (!failed_.load(std::memory_order_relaxed)) return std::nullopt;
  return failure_;
}

}  // namespace asyncopt::linear
