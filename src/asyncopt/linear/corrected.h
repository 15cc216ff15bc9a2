// Stochastic gradients of which the variance goes to 0, so that a constant learning rate ends at
// the optimum: SAGA (Defazio et al., NIPS 2014) and SVRG (Johnson and Zhang, NIPS 2013), in the
// sparse form that workers can share: ASAGA (Leblond et al., AISTATS 2017) with proximal steps
// (Pedregosa et al., NIPS 2017).
//
// From an example's gradient that of an earlier visit is taken off, and the mean of all examples'
// earlier gradients is put on, in full for a column that all have and as many times more for one
// that few have: on the average over the examples, it counts once. `notes` are the losses'
// derivatives at the earlier visits, `sums` the mean of the gradients.
//
// SAGA's earlier visit is the last one. SVRG's are all of one pass, in which nothing moves: one
// with eta0 = 0.
#pragma once

#include "asyncopt/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// `Means` is how the mean of the gradients is changed. Lost updates of it would stay for ever, so
// that it is exact also where weights are raced for.
template <class Loss, bool Penalized, bool Moves, bool Notes, class Access, class Means>
double corrected(const Rows& rows, std::size_t first, std::size_t last, const Model& model,
                 const Settings& settings) {
  double losses = 0;
  for (std::size_t i = first; i < last; ++i) {
    const Row row(rows, i);
    const LossAt loss = row.loss<Loss>(model.weights, settings);
    const Turn turn(model.seat);
    losses += static_cast<double>(loss.value);
    const float change = loss.derivative - rows.notes[i];
    const float part = change / settings.examples;
    if constexpr (Notes) rows.notes[i] = loss.derivative;
    for (std::size_t k = 0; k < row.n; ++k) {
      const std::int32_t u = row.columns[k];
      const float x = row.values[k];
      if constexpr (Moves) {
        const float gap = settings.spacing[u];
        const float mean = racy_load(model.sums + u) * (gap > 0 ? gap : 1);
        const Step step{settings.eta0, 1, settings.l1, settings.l2, 0};
        Access::change(model.weights + u, [&](float& w) {
          move<Scaled, Penalized>(step, w, 0.0f, change * x + mean, gap);
        });
      }
      if constexpr (Notes)
        if (change != 0) Means::change(model.sums + u, [&](float& mean) { mean += part * x; });
    }
  }
  return losses;
}

template <class Loss, class Kind, bool Penalized, class Access, class Means>
double corrected_loop(const Rows& rows, std::size_t first, std::size_t last, std::uint64_t,
                      const Model& model, const Settings& settings) {
  if (settings.eta0 == 0)
    return corrected<Loss, Penalized, false, true, Access, Means>(rows, first, last, model,
                                                                  settings);
  constexpr bool notes = std::is_same_v<Kind, Saga>;
  return corrected<Loss, Penalized, true, notes, Access, Means>(rows, first, last, model, settings);
}

}  // namespace asyncopt::ASYNCOPT_ISA::linear
