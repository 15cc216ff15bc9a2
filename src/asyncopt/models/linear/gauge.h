// Iterative refinement for solvers that converge to the optimum (Wilkinson, 1963).
//
// In float32, steps below 6e-8 do not change a weight of 1, and a sum of many small changes drifts.
// These solvers therefore step in float32 on differences from an anchor: float64 weights, with each
// example's prediction and number there. From time to time the weights become the next anchor, and
// the differences start from 0. The accuracy is that of float64; a step costs what float32 costs.
//
// A gauge computes, from the weights of an anchor, the examples' predictions, derivatives and
// gradients.
#pragma once

#include "asyncopt/models/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// Four partial sums hide the latency of addition (four cycles, two additions per cycle).
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
