// FTRL-Proximal (McMahan et al., "Ad click prediction", KDD 2013): a column's weight minimizes the
// sum of all its linearized losses so far, each with a proximal term around the weight where its
// gradient was taken. It is exactly 0 if the l1 penalty outweighs the gradients. `squares` are the
// sums of squared gradients, `sums` the paper's z; the weights that follow from them (steps.h) are
// stored too, for predictions.
//
// The penalty counts once per example so far, like the loss (McMahan, AISTATS 2011), so the optimum
// is that of the other steps. In the paper of 2013 it counts once in total.
#pragma once

#include "asyncopt/models/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

template <bool Penalized, class Access>
struct Leader {
  static ASYNCOPT_INLINE void row(const Step& s, const Model& m, const float* spacing,
                                  const std::int32_t* columns, const float* values, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::int32_t u = columns[i];
      const float gradient = s.derivative * values[i];
      float before = 0;
      const float squares = Access::change(m.squares + u, [&](float& sum) {
        before = sum;
        sum += gradient * gradient;
      });
      const float sigma = (__builtin_sqrtf(squares) - __builtin_sqrtf(before)) / s.eta;
      const float pull = sigma * racy_load(m.weights + u);
      const float z = Access::change(m.sums + u, [&](float& sum) { sum += gradient - pull; });
      const float examples = Penalized && spacing[u] > 0 ? s.before + 1 : 0;
      racy_store(m.weights + u, Ftrl::weight(z, squares, s.eta, s.l1 * examples, s.l2 * examples),
                 0);
    }
  }
};

}  // namespace asyncopt::ASYNCOPT_ISA::linear
