// Steps: how an example moves the weights of its columns. A step is a struct with its name, as
// Python passes it, and the members of `Usual` that differ.
#pragma once

#include <cstddef>

#include "asyncopt/base/list.h"
#include "asyncopt/base/numbers.h"

namespace asyncopt::linear {

struct Usual {
  static constexpr bool adaptive = false;  // keeps a sum of squares for each column
  static constexpr bool sums = false;      // keeps another sum for each column
  static constexpr bool averages = false;  // the sums are those of the mean of weights (loops.h)
  static constexpr bool leads = false;     // the weights follow from the sums and squares
  static constexpr std::size_t notes = 0;  // numbers kept for each example
  static constexpr bool strides = false;   // moves copies by strides: copies.h
  static constexpr bool smooth = false;    // the loss must have a derivative everywhere
};

// One learning rate for all coordinates: eta0 / (1 + decay t) ^ power for example t. Constant where
// decay is 0; Bottou ("Stochastic Gradient Descent Tricks", 2012) takes alpha eta0 and a power
// of 1.
struct Scaled : Usual {
  static constexpr const char* name = "scaled";
};
struct AveragedScaled : Scaled {
  static constexpr const char* name = "averaged_scaled";
  static constexpr bool sums = true, averages = true;
};

// AdaGrad (Duchi et al., JMLR 2011): each coordinate's rate is divided by the root of the sum of
// its squared gradients. The sum includes this gradient, so a step is bounded whatever other
// workers write.
struct AdaGrad : Usual {
  static constexpr const char* name = "adagrad";
  static constexpr bool adaptive = true;
};
inline constexpr float kEps = 1e-10f;
struct AveragedAdaGrad : AdaGrad {
  static constexpr const char* name = "averaged_adagrad";
  static constexpr bool sums = true, averages = true;
};

// Where the loss is flat (the hinge beyond its margin), one in kFlatOnes examples applies the l2
// penalty, kFlatOnes times as large; the others are only read. The expected penalty is the same.
// This does not apply to the l1 penalty, because weights would reach 0 less often, or to FTRL,
// whose penalty covers all examples so far.
inline constexpr std::uint32_t kFlatOnes = 4;
ASYNCOPT_INLINE bool pays_for_flat_ones(std::uint64_t t) {
  return noise(static_cast<std::uint32_t>(t), 0) % kFlatOnes == 0;
}

// FTRL-Proximal: ftrl.h.
struct Ftrl : Usual {
  static constexpr const char* name = "ftrl";
  static constexpr bool adaptive = true, sums = true, leads = true;

  // `l1` and `l2`: total penalties of all examples so far. beta is 1, as in the paper.
  static ASYNCOPT_INLINE float weight(float sum, float squares, float eta, float l1, float l2) {
    const float beyond = __builtin_fabsf(sum) - l1;
    if (beyond <= 0) return 0;
    const float size = beyond / pull(squares, eta, l2);
    return sum < 0 ? size : -size;
  }
  // How far a sum must exceed l1 for a weight of 1.
  static ASYNCOPT_INLINE float pull(float squares, float eta, float l2) {
    return (1 + __builtin_sqrtf(squares)) / eta + l2;
  }
};

// Dual coordinate ascent, one example at a time: dual.h.
struct Dual : Usual {
  static constexpr const char* name = "dual";
  static constexpr std::size_t notes = 2;
  static constexpr bool strides = true;
};

// SAGA and SVRG: gradients corrected by those of the examples' last visits, or at the anchor
// (corrected.h).
struct Saga : Usual {
  static constexpr const char* name = "saga";
  static constexpr std::size_t notes = 1;
  static constexpr bool sums = true, smooth = true;
};
struct Svrg : Saga {
  static constexpr const char* name = "svrg";
};

using Steps = List<Scaled, AveragedScaled, AdaGrad, AveragedAdaGrad, Ftrl, Dual, Saga, Svrg>;

}  // namespace asyncopt::linear
