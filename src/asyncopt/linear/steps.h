// How the coordinates move for an example. A step is a struct with its name, as Python asks for it,
// and what of this is not so of it.
#pragma once

#include <cstddef>

#include "asyncopt/lists.h"
#include "asyncopt/numbers.h"

namespace asyncopt::linear {

struct Usual {
  static constexpr bool adaptive = false;  // keeps a sum of squares for each column
  static constexpr bool sums = false;      // keeps another sum for each column
  static constexpr bool averages = false;  // the sums are those of loops.h, for the mean of weights
  static constexpr bool leads = false;     // the weights are what the sums and squares mean
  static constexpr std::size_t notes = 0;  // numbers that it keeps for each example
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

// That of each coordinate is divided by the root of the sum of its squared gradients, this one
// included: Duchi et al., JMLR 2011. A step so stays bounded whatever others write.
struct AdaGrad : Usual {
  static constexpr const char* name = "adagrad";
  static constexpr bool adaptive = true;
};
inline constexpr float kEps = 1e-10f;
struct AveragedAdaGrad : AdaGrad {
  static constexpr const char* name = "averaged_adagrad";
  static constexpr bool sums = true, averages = true;
};

// Of the examples at which the loss is flat, as the hinge is beyond its margin, one in so many pays
// the l2 penalty, for all of them: on the average nothing changes, and the others are only read.
// Not the l1 penalty, whose zeros would be fewer, nor where each example's is that of all before.
inline constexpr std::uint32_t kFlatOnes = 4;
ASYNCOPT_INLINE bool pays_for_flat_ones(std::uint64_t t) {
  return noise(static_cast<std::uint32_t>(t), 0) % kFlatOnes == 0;
}

// The best weight for all gradients so far: ftrl.h.
struct Ftrl : Usual {
  static constexpr const char* name = "ftrl";
  static constexpr bool adaptive = true, sums = true, leads = true;

  // `l1` and `l2` are those of all examples so far together; the paper's beta is 1, as there.
  static ASYNCOPT_INLINE float weight(float sum, float squares, float eta, float l1, float l2) {
    const float beyond = __builtin_fabsf(sum) - l1;
    if (beyond <= 0) return 0;
    const float size = beyond / pull(squares, eta, l2);
    return sum < 0 ? size : -size;
  }
  // Of a sum, what a weight of 1 takes beyond l1.
  static ASYNCOPT_INLINE float pull(float squares, float eta, float l2) {
    return (1 + __builtin_sqrtf(squares)) / eta + l2;
  }
};

// Coordinate ascent in the dual problem, an example at a time: dual.h.
struct Dual : Usual {
  static constexpr const char* name = "dual";
  static constexpr std::size_t notes = 2;
  static constexpr bool strides = true;
};

// Gradients corrected by those of the examples' last visits, and by those at the anchor:
// corrected.h.
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
