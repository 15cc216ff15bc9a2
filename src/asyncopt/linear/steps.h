// How the coordinates move for an example. A step is a struct of
//   name      as Python asks for it
//   adaptive  whether it keeps a sum of squares for each column
//   sums      whether it keeps another sum for each column
//   notes     whether it keeps a number for each example
//   merges    whether copies of a model that took it may be merged
//   smooth    whether the loss must have a derivative everywhere
#pragma once

#include "asyncopt/lists.h"

namespace asyncopt::linear {

// The learning rate of example t for all coordinates: eta0 / (1 + decay t). Constant where decay is
// 0; Bottou ("Stochastic Gradient Descent Tricks", 2012) takes alpha eta0.
struct Scaled {
  static constexpr const char* name = "scaled";
  static constexpr bool adaptive = false, sums = false, notes = false, merges = true;
  static constexpr bool smooth = false;
};

// That of each coordinate is divided by the root of the sum of its squared gradients, this one
// included: Duchi et al., JMLR 2011. A step so stays bounded whatever others write.
struct AdaGrad {
  static constexpr const char* name = "adagrad";
  static constexpr bool adaptive = true, sums = false, notes = false, merges = true;
  static constexpr bool smooth = false;
};
inline constexpr float kEps = 1e-10f;

// Coordinate ascent in the dual problem, an example at a time: dual.h.
struct Dual {
  static constexpr const char* name = "dual";
  static constexpr bool adaptive = false, sums = false, notes = true, merges = false;
  static constexpr bool smooth = false;
};

// Gradients corrected by those of the examples' last visits, and by those of one pass: corrected.h.
struct Saga {
  static constexpr const char* name = "saga";
  static constexpr bool adaptive = false, sums = true, notes = true, merges = false;
  static constexpr bool smooth = true;
};
struct Svrg {
  static constexpr const char* name = "svrg";
  static constexpr bool adaptive = false, sums = true, notes = true, merges = false;
  static constexpr bool smooth = true;
};

using Steps = List<Scaled, AdaGrad, Dual, Saga, Svrg>;

}  // namespace asyncopt::linear
