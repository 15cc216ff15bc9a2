// How far a coordinate moves for its gradient.
#pragma once

#include "asyncopt/lists.h"

namespace asyncopt::linear {

// The learning rate of example t for all coordinates: eta0 / (1 + decay t). Constant where decay is
// 0; Bottou ("Stochastic Gradient Descent Tricks", 2012) takes alpha eta0.
struct Scaled {
  static constexpr const char* name = "scaled";
  static constexpr bool adaptive = false;
};

// That of each coordinate is divided by the root of the sum of its squared gradients, this one
// included: Duchi et al., JMLR 2011. A step so stays bounded whatever others write.
struct AdaGrad {
  static constexpr const char* name = "adagrad";
  static constexpr bool adaptive = true;
};
inline constexpr float kEps = 1e-10f;

using Steps = List<Scaled, AdaGrad>;

}  // namespace asyncopt::linear
