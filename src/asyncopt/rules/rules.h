// The update rules: their maths, hyperparameters and state. A rule has no locks and no atomics, but
// bounds its steps even if several workers have mixed the state (see "Mixed state").
//
// A rule is a struct of
//
//   name                what the kernel is called
//   Hyper, hyper_names  its hyperparameters, doubles in the order of the names (booleans: 0 or 1)
//   slot_names          state of the parameter's shape, one element per element
//   scalar_names        state of one double per tensor; the engine counts the first, `step`
//   Coef<C>             arguments of `apply`: numbers of the arithmetic type C
//   prepare<C>          Hyper and scalars -> Coef, once per tensor and push. scalars[0] is this
//                       push's step (1, 2, ...); the others are replaced: on entry they hold the
//                       values for this push, on return those for the next
//   apply               one element: updates w and its slots s[] from the gradient g. Branchless on
//                       purpose: options are coefficients, so that the loop around it vectorizes
//
// and, for tables whose rows replay the steps without a gradient (idle.h), of
//
//   moves_idle_rows     true if such a step changes anything; assumed if not defined
//   linear_after        number of these steps, after one with a gradient, that must be taken one by
//                       one before the others are linear in w and the slots. A step that moves w by
//                       less than `rounding` times the first one's move counts as none
//   linear_step         one such linear step; if not defined, all are taken one by one
//
// and, for rules that only add a number to w, independent of w, which GPU memory does atomically,
// of
//
//   adds                true if the rule only adds with these coefficients
//   addend              the number to add
//
// Mixed state. Under hogwild and atomic, `apply` may read slots that no serial order produces: each
// holds a value that some worker stored, but their ages may differ in any combination. No order of
// loads and stores prevents this, since a worker's store to one slot can be overwritten while its
// store to another remains. Stochastic rounding also changes each slot separately. A rule
// must therefore bound its step for every combination: it takes no root of a negative number, and
// where numerator and denominator come from different slots, it limits the step to a size that no
// serial step reaches. tests/cpp/test_interleavings.cc tries all interleavings of two workers.
//
// The formulas are those of the torch.optim namesake, in the same order of operations. They are
// compiled without contraction into fused multiply-adds, so that every instruction set gives the
// same bits. `prepare` and `apply` run on the host and on GPUs.
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "asyncopt/base/numbers.h"

namespace asyncopt {

inline constexpr std::size_t kMaxSlots = 3;               // state tensors of a rule
inline constexpr std::size_t kMaxScalars = 3;             // per-tensor scalars of a rule
inline constexpr std::size_t kMaxHyper = 8;               // hyperparameters of a rule
inline constexpr std::size_t kMaxCoef = 96;               // bytes of a rule's coefficients
inline constexpr std::size_t kMaxValues = 1 + kMaxSlots;  // per element: parameter and slots
inline constexpr std::size_t kMaxIdleCoef = kMaxValues * kMaxValues * sizeof(double);

using Names0 = std::array<const char*, 0>;
template <std::size_t N>
using Names = std::array<const char*, N>;

ASYNCOPT_HD ASYNCOPT_INLINE float root(float x) { return __builtin_sqrtf(x); }
ASYNCOPT_HD ASYNCOPT_INLINE double root(double x) { return __builtin_sqrt(x); }
template <class C>
ASYNCOPT_HD ASYNCOPT_INLINE C larger(C a, C b) {
  return a < b ? b : a;
}

// Clamps x to [-limit, limit]; NaN stays NaN.
template <class C>
ASYNCOPT_HD ASYNCOPT_INLINE C limited(C x, C limit) {
  const C below = limit < x ? limit : x;
  return below < -limit ? -limit : below;
}

// The gradient with coupled weight decay. Without decay w is not used, as 0 * inf would be NaN.
template <class C>
ASYNCOPT_HD ASYNCOPT_INLINE C decayed(C g, C w, C sign, C weight_decay) {
  g *= sign;
  return weight_decay != 0 ? g + weight_decay * w : g;
}

inline constexpr double kNever = std::numeric_limits<double>::infinity();

// Stochastic gradient descent; with momentum: Sutskever et al., ICML 2013, in torch's variant.
template <bool Momentum>
struct SGD {
  static constexpr const char* name = Momentum ? "sgd_momentum" : "sgd";
  struct Hyper {
    double lr, momentum, dampening, weight_decay, nesterov, maximize;
  };
  static constexpr Names<6> hyper_names{"lr",           "momentum", "dampening",
                                        "weight_decay", "nesterov", "maximize"};
  static constexpr auto slot_names = [] {
    if constexpr (Momentum)
      return Names<1>{"momentum_buffer"};
    else
      return Names0{};
  }();
  static constexpr auto scalar_names = [] {
    if constexpr (Momentum)
      return Names<1>{"step"};
    else
      return Names0{};
  }();

  template <class C>
  struct Coef {
    C lr, sign, weight_decay, momentum, fresh, nesterov;
  };
  template <class C>
  ASYNCOPT_HD static Coef<C> prepare(const Hyper& h, double* scalars) {
    Coef<C> c{};
    c.lr = static_cast<C>(h.lr);
    c.sign = h.maximize != 0 ? C(-1) : C(1);
    c.weight_decay = static_cast<C>(h.weight_decay);
    if constexpr (Momentum) {
      // The first push adds its gradient to the buffer undamped. It does not reset the buffer,
      // because the push that counted step 1 may be applied after another one.
      c.momentum = static_cast<C>(h.momentum);
      c.fresh = scalars[0] == 1 ? C(1) : static_cast<C>(1 - h.dampening);
      c.nesterov = h.nesterov != 0 ? static_cast<C>(h.momentum) : C(0);
    } else {
      (void)scalars;
    }
    return c;
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g,
                                                [[maybe_unused]] C* s) {
    g = decayed(g, w, c.sign, c.weight_decay);
    if constexpr (Momentum) {
      s[0] = c.momentum * s[0] + c.fresh * g;
      g = c.nesterov != 0 ? g + c.nesterov * s[0] : s[0];
    }
    w -= c.lr * g;
  }

  static bool moves_idle_rows(const Hyper& h) { return Momentum || h.weight_decay != 0; }
  static double linear_after(const Hyper&, double) { return 0; }
  template <class C>
  static ASYNCOPT_INLINE void linear_step(const Coef<C>& c, C& w, C* s) {
    apply(c, w, C(0), s);
  }

  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE bool adds(const Coef<C>& c)
    requires(!Momentum)
  {
    return c.weight_decay == 0;
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE C addend(const Coef<C>& c, C g)
    requires(!Momentum)
  {
    return -(c.lr * (c.sign * g));
  }
};

// Adam: Kingma and Ba, arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018; with decoupled weight
// decay AdamW: Loshchilov and Hutter, arXiv 1711.05101.
template <bool Amsgrad>
struct Adam {
  static constexpr const char* name = Amsgrad ? "adam_amsgrad" : "adam";
  struct Hyper {
    double lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize;
  };
  static constexpr Names<7> hyper_names{
      "lr", "beta1", "beta2", "eps", "weight_decay", "decoupled_weight_decay", "maximize"};
  static constexpr auto slot_names = [] {
    if constexpr (Amsgrad)
      return Names<3>{"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
    else
      return Names<2>{"exp_avg", "exp_avg_sq"};
  }();
  static constexpr Names<1> scalar_names{"step"};

  template <class C>
  struct Coef {
    C sign, weight_decay, shrink, fresh1, beta2, fresh2, step_size, unbias2, eps, limit;
  };
  template <class C>
  ASYNCOPT_HD static Coef<C> prepare(const Hyper& h, double* scalars) {
    const double step = scalars[0];
    const bool decoupled = h.decoupled_weight_decay != 0;
    Coef<C> c{};
    c.sign = h.maximize != 0 ? C(-1) : C(1);
    c.weight_decay = decoupled ? C(0) : static_cast<C>(h.weight_decay);
    c.shrink = decoupled ? static_cast<C>(1 - h.lr * h.weight_decay) : C(1);
    c.fresh1 = static_cast<C>(1 - h.beta1);
    c.beta2 = static_cast<C>(h.beta2);
    c.fresh2 = static_cast<C>(1 - h.beta2);
    c.step_size = static_cast<C>(h.lr / (1 - std::pow(h.beta1, step)));
    c.unbias2 = static_cast<C>(1 / std::sqrt(1 - std::pow(h.beta2, step)));
    c.eps = static_cast<C>(h.eps);
    c.limit = static_cast<C>(std::abs(h.lr) / (1 - std::pow(h.beta1, step)) *
                             std::sqrt(1 - std::pow(h.beta2, step)) * largest_ratio(h));
    return c;
  }
  // Moments of the same gradients satisfy |exp_avg| <= K sqrt(exp_avg_sq), by the Cauchy-Schwarz
  // inequality; K is 7.3 for the default betas. Mixed moments may violate it, so steps are limited
  // to the ratio max(2 K, 20): the factor 2 allows for rounding, and 20 for moments computed with
  // other betas. If beta1^2 >= beta2, serial steps have no bound, and these have none either.
  ASYNCOPT_HD static double largest_ratio(const Hyper& h) {
    const double decay = h.beta1 > 0 ? h.beta1 * h.beta1 / h.beta2 : 0;
    if (!(decay < 1)) return kNever;
    return larger(20.0, 2 * (1 - h.beta1) / std::sqrt((1 - h.beta2) * (1 - decay)));
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s) {
    w *= c.shrink;
    g = decayed(g, w, c.sign, c.weight_decay);
    s[0] += c.fresh1 * (g - s[0]);
    s[1] = c.beta2 * s[1] + c.fresh2 * g * g;
    C second = s[1];
    if constexpr (Amsgrad) second = s[2] = larger(s[2], s[1]);
    w -= limited(c.step_size * s[0] / (root(second) * c.unbias2 + c.eps), c.limit);
  }

  static bool moves_idle_rows(const Hyper&) { return true; }
  // Each idle step moves w by at most `ratio` times the previous step's move.
  static double linear_after(const Hyper& h, double rounding) {
    const double ratio = h.beta1 / std::sqrt(h.beta2);
    if ((h.weight_decay != 0 && h.decoupled_weight_decay == 0) || !(ratio < 1)) return kNever;
    return ratio > 0 ? std::ceil(std::log(rounding) / std::log(ratio)) : 0;
  }
  template <class C>
  static ASYNCOPT_INLINE void linear_step(const Coef<C>& c, C& w, C* s) {
    w *= c.shrink;
    s[0] -= c.fresh1 * s[0];
    s[1] *= c.beta2;
  }
};

// Duchi et al., JMLR 2011.
struct Adagrad {
  static constexpr const char* name = "adagrad";
  struct Hyper {
    double lr, lr_decay, weight_decay, eps, maximize;
  };
  static constexpr Names<5> hyper_names{"lr", "lr_decay", "weight_decay", "eps", "maximize"};
  static constexpr Names<1> slot_names{"sum"};
  static constexpr Names<1> scalar_names{"step"};

  template <class C>
  struct Coef {
    C lr, sign, weight_decay, eps;
  };
  template <class C>
  ASYNCOPT_HD static Coef<C> prepare(const Hyper& h, double* scalars) {
    return {static_cast<C>(h.lr / (1 + (scalars[0] - 1) * h.lr_decay)),
            h.maximize != 0 ? C(-1) : C(1), static_cast<C>(h.weight_decay), static_cast<C>(h.eps)};
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s) {
    g = decayed(g, w, c.sign, c.weight_decay);
    s[0] += g * g;
    w -= c.lr * g / (root(s[0]) + c.eps);
  }

  static bool moves_idle_rows(const Hyper& h) { return h.weight_decay != 0; }
};

// Row-wise rules keep one second moment per row, of the mean of its squared gradients: the state of
// an embedding table shrinks from the table's size to one number per row. The last `row_slots`
// slots hold one value per row. `gradient` returns the value to square, and `begin_row` updates the
// row's values r[] before `apply` is called for its elements. A gradient is at most root_width
// times the root mean square of its row, where root_width is the root of the number of elements.
// This bound fails if another worker changes w, and so the decayed gradient, between the two calls;
// steps are therefore limited to twice the bound.

// FBGEMM's and TorchRec's row-wise Adagrad: Mudigere et al., arXiv 2104.05158.
struct RowwiseAdagrad : Adagrad {
  static constexpr const char* name = "adagrad_rowwise";
  static constexpr std::size_t row_slots = 1;

  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE C gradient(const Coef<C>& c, C w, C g) {
    return decayed(g, w, c.sign, c.weight_decay);
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void begin_row(const Coef<C>&, C mean_square, C* r) {
    r[0] += mean_square;
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C*, const C* r,
                                                C root_width) {
    const C step = c.lr * gradient(c, w, g) / (root(r[0]) + c.eps);
    w -= limited(step, C(2) * root_width * larger(c.lr, -c.lr));
  }
};

// FBGEMM's partially row-wise Adam: the first moment is per element.
struct RowwiseAdam : Adam<false> {
  static constexpr const char* name = "adam_rowwise";
  static constexpr std::size_t row_slots = 1;

  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE C gradient(const Coef<C>& c, C w, C g) {
    return decayed(g, w * c.shrink, c.sign, c.weight_decay);
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void begin_row(const Coef<C>& c, C mean_square, C* r) {
    r[0] = c.beta2 * r[0] + c.fresh2 * mean_square;
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s, const C* r,
                                                C root_width) {
    g = gradient(c, w, g);
    w *= c.shrink;
    s[0] += c.fresh1 * (g - s[0]);
    const C step = c.step_size * s[0] / (root(r[0]) * c.unbias2 + c.eps);
    w -= limited(step, c.limit * root_width);
  }
};

// Number of a rule's last slots that hold one value per row.
template <class Rule>
inline constexpr std::size_t row_slots_of = [] {
  if constexpr (requires { Rule::row_slots; })
    return std::size_t{Rule::row_slots};
  else
    return std::size_t{0};
}();

// Zeiler, arXiv 1212.5701.
struct Adadelta {
  static constexpr const char* name = "adadelta";
  struct Hyper {
    double lr, rho, eps, weight_decay, maximize;
  };
  static constexpr Names<5> hyper_names{"lr", "rho", "eps", "weight_decay", "maximize"};
  static constexpr Names<2> slot_names{"square_avg", "acc_delta"};
  static constexpr Names<1> scalar_names{"step"};

  template <class C>
  struct Coef {
    C lr, sign, weight_decay, rho, fresh, eps;
  };
  template <class C>
  ASYNCOPT_HD static Coef<C> prepare(const Hyper& h, double*) {
    return {static_cast<C>(h.lr),  h.maximize != 0 ? C(-1) : C(1), static_cast<C>(h.weight_decay),
            static_cast<C>(h.rho), static_cast<C>(1 - h.rho),      static_cast<C>(h.eps)};
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s) {
    g = decayed(g, w, c.sign, c.weight_decay);
    s[0] = c.rho * s[0] + c.fresh * g * g;
    const C delta = root((s[1] + c.eps) / (s[0] + c.eps)) * g;
    s[1] = c.rho * s[1] + c.fresh * delta * delta;
    w -= c.lr * delta;
  }

  static double linear_after(const Hyper& h, double) { return h.weight_decay != 0 ? kNever : 0; }
  template <class C>
  static ASYNCOPT_INLINE void linear_step(const Coef<C>& c, C&, C* s) {
    s[0] *= c.rho;
    s[1] *= c.rho;
  }
};

// Tieleman and Hinton, Coursera 2012, lecture 6.5; centered: Graves, arXiv 1308.0850.
template <bool Centered, bool Momentum>
struct RMSprop {
  static constexpr const char* name =
      Centered ? (Momentum ? "rmsprop_centered_momentum" : "rmsprop_centered")
               : (Momentum ? "rmsprop_momentum" : "rmsprop");
  struct Hyper {
    double lr, alpha, eps, weight_decay, momentum, maximize;
  };
  static constexpr Names<6> hyper_names{"lr",           "alpha",    "eps",
                                        "weight_decay", "momentum", "maximize"};
  static constexpr auto slot_names = [] {
    if constexpr (Centered && Momentum)
      return Names<3>{"square_avg", "grad_avg", "momentum_buffer"};
    else if constexpr (Centered)
      return Names<2>{"square_avg", "grad_avg"};
    else if constexpr (Momentum)
      return Names<2>{"square_avg", "momentum_buffer"};
    else
      return Names<1>{"square_avg"};
  }();
  static constexpr Names<1> scalar_names{"step"};

  template <class C>
  struct Coef {
    C lr, sign, weight_decay, alpha, fresh, eps, momentum;
  };
  template <class C>
  ASYNCOPT_HD static Coef<C> prepare(const Hyper& h, double*) {
    return {static_cast<C>(h.lr),           h.maximize != 0 ? C(-1) : C(1),
            static_cast<C>(h.weight_decay), static_cast<C>(h.alpha),
            static_cast<C>(1 - h.alpha),    static_cast<C>(h.eps),
            static_cast<C>(h.momentum)};
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s) {
    g = decayed(g, w, c.sign, c.weight_decay);
    s[0] = c.alpha * s[0] + c.fresh * g * g;
    C second = s[0];
    if constexpr (Centered) {
      s[1] += c.fresh * (g - s[1]);
      // In exact arithmetic the variance is positive, unless all gradients were 0. If rounding or
      // mixed averages make it zero or negative, square_avg, an upper bound, replaces it.
      const C variance = second - s[1] * s[1];
      second = variance > 0 ? variance : second;
    }
    C step = g / (root(second) + c.eps);
    if constexpr (Momentum) {
      C& buffer = s[Centered ? 2 : 1];
      step = buffer = c.momentum * buffer + step;
    }
    w -= c.lr * step;
  }

  static double linear_after(const Hyper& h, double) { return h.weight_decay != 0 ? kNever : 0; }
  template <class C>
  static ASYNCOPT_INLINE void linear_step(const Coef<C>& c, C& w, C* s) {
    s[0] *= c.alpha;
    if constexpr (Centered) s[1] -= c.fresh * s[1];
    if constexpr (Momentum) {
      C& buffer = s[Centered ? 2 : 1];
      buffer *= c.momentum;
      w -= c.lr * buffer;
    }
  }
};

// Averaged SGD: Polyak and Juditsky, SIAM J. Control Optim. 1992. As in torch, a push uses the eta
// and mu that the previous push computed, and both are kept in float32 precision.
struct ASGD {
  static constexpr const char* name = "asgd";
  struct Hyper {
    double lr, lambd, alpha, t0, weight_decay, maximize;
  };
  static constexpr Names<6> hyper_names{"lr", "lambd", "alpha", "t0", "weight_decay", "maximize"};
  static constexpr Names<1> slot_names{"ax"};
  static constexpr Names<3> scalar_names{"step", "eta", "mu"};

  template <class C>
  struct Coef {
    C sign, weight_decay, shrink, eta, mu;
  };
  ASYNCOPT_HD static double to_float32(double x) {
#ifdef __CUDA_ARCH__
    return static_cast<float>(x);
#else
    volatile float narrow =
        static_cast<float>(x);  // volatile: gcc 12 drops a plain conversion to float and back
    return narrow;
#endif
  }
  template <class C>
  ASYNCOPT_HD static Coef<C> prepare(const Hyper& h, double* scalars) {
    const double step = scalars[0];
    const double eta = step == 1 ? to_float32(h.lr) : scalars[1];
    const Coef<C> c{h.maximize != 0 ? C(-1) : C(1), static_cast<C>(h.weight_decay),
                    static_cast<C>(1 - h.lambd * eta), static_cast<C>(eta),
                    static_cast<C>(scalars[2])};
    scalars[1] = to_float32(h.lr / std::pow(1 + h.lambd * h.lr * step, h.alpha));
    scalars[2] = to_float32(1 / larger(1.0, step - h.t0));
    return c;
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s) {
    g = decayed(g, w, c.sign, c.weight_decay);
    w = c.shrink * w - c.eta * g;
    s[0] = c.mu == 1 ? w : s[0] + c.mu * (w - s[0]);
  }

  static double linear_after(const Hyper&, double) { return 0; }
  template <class C>
  static ASYNCOPT_INLINE void linear_step(const Coef<C>& c, C& w, C* s) {
    apply(c, w, C(0), s);
  }
};

}  // namespace asyncopt
