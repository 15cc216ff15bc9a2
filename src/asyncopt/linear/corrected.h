// Stochastic gradients of which the variance goes to 0, so that a constant learning rate ends at
// the optimum: SAGA (Defazio et al., NIPS 2014) and SVRG (Johnson and Zhang, NIPS 2013), in the
// sparse form that workers can share: ASAGA (Leblond et al., AISTATS 2017) with proximal steps
// (Pedregosa et al., NIPS 2017).
//
// From an example's gradient that of an earlier visit is taken off, and the mean of all examples'
// earlier gradients is put on, in full for a column that all have and as many times more for one
// that few have: on the average over the examples, it counts once.
//
// SAGA's earlier visit is the last one. SVRG's are all at the anchor (gauge.h), which is its
// snapshot. An anchor's number is the loss's derivative there, `notes` are how far the derivatives
// of the last visits lie from those. `sums` are the mean of the earlier gradients, with the slope
// of the penalty at the anchor: so they, the notes and the weights all become small together.
#pragma once

#include "asyncopt/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// The proximal step of the penalty for a learning rate: towards the optimum of l1 |base + w| + l2
// w^2 / 2 less l1 w sign(base), which `sums` have already. An exact zero is w = -base.
ASYNCOPT_INLINE float penalized(float w, float eta, const Settings& settings, std::int32_t u) {
  const float damping = 1 + eta * settings.l2;
  if (settings.base == nullptr) return w / damping;
  const float base = settings.base[u], threshold = eta * settings.l1;
  const float sign = static_cast<float>(base > 0) - static_cast<float>(base < 0);
  const float high = threshold * (1 - sign), low = -threshold * (1 + sign);
  const float from_zero = w + base * damping;
  const float below = from_zero < high ? from_zero : high, edge = below < low ? low : below;
  // Without a branch, which would be mispredicted: columns differ.
  const std::uint32_t zero = 0 - static_cast<std::uint32_t>(edge == from_zero);
  const auto beyond = cast_bits<std::uint32_t>((w - edge) / damping);
  return cast_bits<float>((cast_bits<std::uint32_t>(-base) & zero) | (beyond & ~zero));
}

// `Means` is how the mean of the gradients is changed. Lost updates of it would stay until the next
// anchor, so that it is exact also where weights are raced for.
template <class Loss, bool Penalized, bool Notes, class Access, class Means>
double corrected(const Rows& rows, std::size_t first, std::size_t last, const Model& model,
                 const Settings& given) {
  const Settings settings = given;  // which no store to a weight can change: stays in registers
  double losses = 0;
  for (std::size_t i = first; i < last; ++i) {
    const Row row(rows, i);
    const Anchor& anchor = rows.anchors[i];
    const double prediction = anchor.prediction + row.predict(model.weights);
    const LossAt<double> loss = row.loss<Loss>(prediction, settings);
    const Turn turn(model.seat);
    losses += loss.value;
    const auto moved = static_cast<float>(loss.derivative - anchor.number);
    const float change = moved - rows.notes[i];
    const float part = change / settings.examples;
    if constexpr (Notes) rows.notes[i] = moved;
    for (std::size_t k = 0; k < row.n; ++k) {
      const std::int32_t u = row.columns[k];
      const float x = row.values[k], gap = settings.spacing[u];
      const float mean = racy_load(model.sums + u) * (gap > 0 ? gap : 1);
      Access::change(model.weights + u, [&](float& w) {
        w -= settings.eta0 * (change * x + mean);
        if constexpr (Penalized) w = penalized(w, settings.eta0 * gap, settings, u);
      });
      if constexpr (Notes)
        if (change != 0) Means::change(model.sums + u, [&](float& sum) { sum += part * x; });
    }
  }
  return losses;
}

template <class Loss, class Kind, bool Penalized, class Access, class Means>
double corrected_loop(const Rows& rows, std::size_t first, std::size_t last, std::uint64_t,
                      const Model& model, const Settings& settings) {
  constexpr bool notes = std::is_same_v<Kind, Saga>;
  return corrected<Loss, Penalized, notes, Access, Means>(rows, first, last, model, settings);
}

}  // namespace asyncopt::ASYNCOPT_ISA::linear
