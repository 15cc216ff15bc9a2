// Where a solver that ends at the optimum stands, in float64.
//
// In float32 a weight of 1 stands still under steps below 6e-8, and a sum of many small changes
// drifts. So such a solver steps in float32 on differences from an anchor: float64 weights, with
// the prediction and the number of each example there. From time to time the weights become the
// next anchor, and the differences start from 0 (iterative refinement: Wilkinson, 1963). How near
// it can come to the optimum is so a matter of float64, while a step costs what float32 does.
//
// A gauge takes the weights of an anchor to the examples' predictions, derivatives and gradients.
#pragma once

#include "asyncopt/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// Four sums, because a processor adds two numbers at once, each in four cycles.
ASYNCOPT_INLINE double dot(const double* w, const Row& row) {
  double sums[4] = {};
  std::size_t k = 0;
  for (; k + 4 <= row.n; k += 4)
    for (std::size_t l = 0; l < 4; ++l) sums[l] += w[row.columns[k + l]] * row.values[k + l];
  for (; k < row.n; ++k) sums[0] += w[row.columns[k]] * row.values[k];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class Loss>
double gauge(const Rows& rows, std::size_t first, std::size_t last, const Settings& settings,
             const Gauging& to) {
  double losses = 0;
  for (std::size_t i = first; i < last; ++i) {
    const Row row(rows, i);
    const double prediction = dot(to.weights, row);
    const LossAt<double> loss = row.loss<Loss>(prediction, settings);
    losses += loss.value;
    to.anchors[i].prediction = prediction;
    to.derivatives[i] = loss.derivative;
    for (std::size_t k = 0; k < row.n; ++k)
      to.gradient[row.columns[k]] += loss.derivative * row.values[k];
  }
  return losses;
}

}  // namespace asyncopt::ASYNCOPT_ISA::linear
