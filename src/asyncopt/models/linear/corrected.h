// Variance-reduced stochastic gradients, which converge to the optimum with a constant learning
// rate: SAGA (Defazio et al., NIPS 2014) and SVRG (Johnson and Zhang, NIPS 2013), in the sparse
// form that workers can share: ASAGA (Leblond et al., AISTATS 2017) with proximal steps (Pedregosa
// et al., NIPS 2017).
//
// A step subtracts the example's gradient at an earlier visit from its gradient now and adds the
// mean of all examples' earlier gradients. That mean is scaled by the column's spacing (examples
// per example that has the column), so that on average over the examples it counts once.
//
// The earlier visit is the last one in SAGA, and the anchor (gauge.h), its snapshot, in SVRG. An
// anchor's number is the derivative of the loss there; `notes` are the differences of the last
// visits' derivatives from it. `sums` are the mean of the earlier gradients, with the slope of the
// penalty at the anchor, so sums, notes and weights all go to 0 together.
#pragma once

#include "asyncopt/models/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// The proximal step of l1 |base + w| + l2 w^2 / 2 - l1 w sign(base); `sums` already hold the last
// term. A weight of exactly 0 is w = -base.
ASYNCOPT_INLINE float penalized(float w, float eta, const Settings& settings, std::int32_t u) {
  const float damping = 1 + eta * settings.l2;
  if (settings.base == nullptr) return w / damping;
  const float base = settings.base[u], threshold = eta * settings.l1;
  const float sign = static_cast<float>(base > 0) - static_cast<float>(base < 0);
  const float high = threshold * (1 - sign), low = -threshold * (1 + sign);
  const float from_zero = w + base * damping;
  const float below = from_zero < high ? from_zero : high, edge = below < low ? low : below;
  // Branchless: a branch would be mispredicted, as columns differ.
  const std::uint32_t zero = 0 - static_cast<std::uint32_t>(edge == from_zero);
  const auto beyond = cast_bits<std::uint32_t>((w - edge) / damping);
  return cast_bits<float>((cast_bits<std::uint32_t>(-base) & zero) | (beyond & ~zero));
}

// `Means` is the access to the mean of the gradients. It is atomic even if weights race, because a
// lost update of the mean would persist until the next anchor.
template <class Loss, bool Penalized, bool Notes, class Access, class Means>
double corrected(const Rows& rows, std::size_t first, std::size_t last, const Model& model,
                 const Settings& given) {
  const Settings settings = given;  // stores to weights cannot alias a copy: stays in registers
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
