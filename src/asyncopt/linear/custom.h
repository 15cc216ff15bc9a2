// A loss that the caller brings, as a function.
#pragma once

#include <atomic>
#include <optional>

#include "asyncopt/numbers.h"

namespace asyncopt::linear {

class CustomLoss {
 public:
  // Gives the value and the derivative with respect to the prediction. Workers call it at the same
  // time; it does not throw.
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

  // Where the loss of a finite prediction was first not finite; to be asked when workers are done.
  std::optional<At> failure() const;

 private:
  void keep(const At& at);

  Function function_;
  std::atomic<bool> failed_ = false;
  At failure_{};
};

}  // namespace asyncopt::linear
