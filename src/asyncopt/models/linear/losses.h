// The losses of linear models: value and derivative at one example's prediction.
//
// A loss is a struct of
//   name        scikit-learn's name
//   curvature   upper bound of the second derivative; 1 if there is none (hinge, perceptron)
//   smooth      true if it has a derivative everywhere
//   at          (prediction, target, settings) -> value and derivative with respect to the
//               prediction, in float or double. The target is -1 or 1 in classification, any number
//               in regression
#pragma once

#include "asyncopt/base/list.h"
#include "asyncopt/models/linear/custom.h"
#include "asyncopt/models/linear/kernels.h"

namespace asyncopt::linear {

template <class T>
struct LossAt {
  T value, derivative;
};

ASYNCOPT_INLINE float exp_of(float x) { return __builtin_expf(x); }
ASYNCOPT_INLINE double exp_of(double x) { return __builtin_exp(x); }
ASYNCOPT_INLINE float log1p_of(float x) { return __builtin_log1pf(x); }
ASYNCOPT_INLINE double log1p_of(double x) { return __builtin_log1p(x); }
ASYNCOPT_INLINE float size_of(float x) { return __builtin_fabsf(x); }
ASYNCOPT_INLINE double size_of(double x) { return __builtin_fabs(x); }

// Cortes and Vapnik, Machine Learning 1995.
struct Hinge {
  static constexpr const char* name = "hinge";
  static constexpr float curvature = 1;
  static constexpr bool smooth = false;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings&) {
    const T slack = 1 - target * prediction;
    return slack > 0 ? LossAt<T>{slack, -target} : LossAt<T>{0, 0};
  }
};

struct SquaredHinge {
  static constexpr const char* name = "squared_hinge";
  static constexpr float curvature = 2;
  static constexpr bool smooth = true;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings&) {
    const T slack = 1 - target * prediction;
    return slack > 0 ? LossAt<T>{slack * slack, -2 * slack * target} : LossAt<T>{0, 0};
  }
};

// Squared hinge down to a margin of -1, then linear: Zhang, ICML 2004.
struct ModifiedHuber {
  static constexpr const char* name = "modified_huber";
  static constexpr float curvature = 2;
  static constexpr bool smooth = true;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings& settings) {
    const T margin = target * prediction;
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
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings&) {
    const T margin = target * prediction;
    return margin <= 0 ? LossAt<T>{-margin, -target} : LossAt<T>{0, 0};
  }
};

struct Logistic {
  static constexpr const char* name = "log_loss";
  static constexpr float curvature = 0.25f;
  static constexpr bool smooth = true;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings&) {
    // In terms of exp(-|margin|), which cannot overflow.
    const T margin = target * prediction;
    const T e = exp_of(-size_of(margin));
    const T wrong = (margin < 0 ? 1 : e) / (1 + e);  // probability of the other class
    return {log1p_of(e) + (margin < 0 ? -margin : 0), -target * wrong};
  }
};

struct Squared {
  static constexpr const char* name = "squared_error";
  static constexpr float curvature = 1;
  static constexpr bool smooth = true;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings&) {
    const T error = prediction - target;
    return {error * error / 2, error};
  }
};

// Huber, Annals of Mathematical Statistics 1964: squared up to an error of `epsilon`, then linear.
struct Huber {
  static constexpr const char* name = "huber";
  static constexpr float curvature = 1;
  static constexpr bool smooth = true;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings& settings) {
    const T epsilon = settings.epsilon;
    const T error = prediction - target;
    const T size = size_of(error);
    if (size <= epsilon) return {error * error / 2, error};
    return {epsilon * (size - epsilon / 2), error < 0 ? -epsilon : epsilon};
  }
};

// A loss given by the caller (custom.h), who is responsible for its curvature and smoothness.
struct Custom {
  static constexpr const char* name = "custom";
  static constexpr float curvature = 1;
  static constexpr bool smooth = true;
  template <class T>
  static ASYNCOPT_INLINE LossAt<T> at(T prediction, T target, const Settings& settings) {
    const CustomLoss::At at = settings.custom->at(prediction, target);
    return {static_cast<T>(at.value), static_cast<T>(at.derivative)};
  }
};

using Losses =
    List<Hinge, SquaredHinge, ModifiedHuber, Perceptron, Logistic, Squared, Huber, Custom>;

}  // namespace asyncopt::linear
