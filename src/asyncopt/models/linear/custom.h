// A user-defined loss, given as a function.
#pragma once

#include <atomic>
#include <optional>

#include "asyncopt/base/numbers.h"

namespace asyncopt::linear {

class CustomLoss {
 public:
  // Writes the value and the derivative with respect to the prediction. Workers call it
  // concurrently; it must not throw.
  using Function = void (*)(double prediction, double target, double* value_and_derivative);

  struct At {
    double prediction, target, value, derivative;
  };

  explicit CustomLoss(Function function) : function_(function) {}

  ASYNCOPT_INLINE At at(double prediction, double target) {
    double found[2];
    function_(prediction, target, found);
    const At at{prediction, target, found[0], found[1]};
    const auto fits = [](double x) { return __builtin_isfinite(static_cast<float>(x)); };
    if (!fits(at.value) || !fits(at.derivative)) [[unlikely]]
      keep(at);
    return at;
  }

  // The first example whose prediction was finite and whose loss was not. Call it after the workers
  // have ended.
  std::optional<At> failure() const;

 private:
  void keep(const At& at);

  Function function_;
  std::atomic<bool> failed_ = false;
  At failure_{};
};

}  // namespace asyncopt::linear
