// The losses of linear models: value and derivative at one example's prediction.
//
// A loss is a struct of
//   name        what scikit-learn calls it
//   curvature   an upper bound of its second derivative; 1 where there is none (hinge, perceptron)
//   smooth      whether it has a derivative everywhere
//   at          (prediction, target, settings) -> value and derivative with respect to the
//               prediction. The target is -1 or 1 in classification, any number in regression
#pragma once

#include "asyncopt/linear/custom.h"
#include "asyncopt/linear/kernels.h"
#include "asyncopt/lists.h"

namespace asyncopt::linear {

struct LossAt {
  float value, derivative;
};

// Cortes and Vapnik, Machine Learning 1995.
struct Hinge {
  static constexpr const char* name = "hinge";
  static constexpr float curvature = 1;
  static constexpr bool smooth = false;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings&) {
    const float slack = 1 - target * prediction;
    return slack > 0 ? LossAt{slack, -target} : LossAt{0, 0};
  }
};

struct SquaredHinge {
  static constexpr const char* name = "squared_hinge";
  static constexpr float curvature = 2;
  static constexpr bool smooth = true;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings&) {
    const float slack = 1 - target * prediction;
    return slack > 0 ? LossAt{slack * slack, -2 * slack * target} : LossAt{0, 0};
  }
};

// Squared as far as a margin of -1, then linear: Zhang, ICML 2004.
struct ModifiedHuber {
  static constexpr const char* name = "modified_huber";
  static constexpr float curvature = 2;
  static constexpr bool smooth = true;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings& settings) {
    const float margin = target * prediction;
    if (margin < -1) return {-4 * margin, -4 * target};
    return SquaredHinge::at(prediction, target, settings);
  }
};

// Rosenblatt, Psychological Review 1958. A margin of 0 counts as an error, so that weights of 0
// move.
struct Perceptron {
  static constexpr const char* name = "perceptron";
  static constexpr float curvature = 1;
  static constexpr bool smooth = false;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings&) {
    const float margin = target * prediction;
    return margin <= 0 ? LossAt{-margin, -target} : LossAt{0, 0};
  }
};

struct Logistic {
  static constexpr const char* name = "log_loss";
  static constexpr float curvature = 0.25f;
  static constexpr bool smooth = true;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings&) {
    // In terms of exp(-|margin|), which cannot overflow.
    const float margin = target * prediction;
    const float e = __builtin_expf(-__builtin_fabsf(margin));
    const float wrong = (margin < 0 ? 1 : e) / (1 + e);  // probability of the other class
    return {__builtin_log1pf(e) + (margin < 0 ? -margin : 0), -target * wrong};
  }
};

struct Squared {
  static constexpr const char* name = "squared_error";
  static constexpr float curvature = 1;
  static constexpr bool smooth = true;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings&) {
    const float error = prediction - target;
    return {error * error / 2, error};
  }
};

// Huber, Annals of Mathematical Statistics 1964: squared up to an error of `epsilon`, then linear.
struct Huber {
  static constexpr const char* name = "huber";
  static constexpr float curvature = 1;
  static constexpr bool smooth = true;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings& settings) {
    const float epsilon = settings.epsilon;
    const float error = prediction - target;
    const float size = __builtin_fabsf(error);
    if (size <= epsilon) return {error * error / 2, error};
    return {epsilon * (size - epsilon / 2), error < 0 ? -epsilon : epsilon};
  }
};

// The caller's own (custom.h), who knows its curvature and whether it is smooth.
struct Custom {
  static constexpr const char* name = "custom";
  static constexpr float curvature = 1;
  static constexpr bool smooth = true;
  static ASYNCOPT_INLINE LossAt at(float prediction, float target, const Settings& settings) {
    const CustomLoss::At at = settings.custom->at(prediction, target);
    return {at.value, at.derivative};
  }
};

using Losses =
    List<Hinge, SquaredHinge, ModifiedHuber, Perceptron, Logistic, Squared, Huber, Custom>;

}  // namespace asyncopt::linear
