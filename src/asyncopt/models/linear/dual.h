// Stochastic dual coordinate ascent (Hsieh et al., ICML 2008; Shalev-Shwartz and Zhang, JMLR 2013);
// with several workers, PASSCoDe (Hsieh et al., ICML 2015).
//
// The minimum of the mean of c phi(x w) over n examples plus l2 |w|^2 / 2 has w = scale * the sum
// of a x over the examples, with scale = 1 / (l2 n) and a dual number a for each example. A step
// sets the example's number to its best value, given all others, and updates w to match. Only the
// worker that visits the example writes its number. There is no learning rate, and w is the minimum
// when no step moves it. Under `hogwild` lost updates add up, and w is the minimum of another,
// nearby problem (PASSCoDe, theorem 3). The other syncs are exact: all columns are copied, and
// merges add every change of a number (strides: copies.h).
//
// Weights and numbers are differences from an anchor (gauge.h). `notes` are the number and, once
// computed, how far the example moves its own prediction. The latter depends on the strides, so
// they, and eta0 by which they are chosen, are the same in all passes.
#pragma once

#include "asyncopt/models/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// Inputs of an example's dual step: the arguments of the loss, c, the current number, and how far
// the prediction moves for each 1 that the number rises.
struct DualAt {
  double prediction, target, epsilon, weight, now, pull;
};

ASYNCOPT_INLINE double within(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}

ASYNCOPT_INLINE double best(Hinge, const DualAt& d) {
  const double slack = 1 - d.target * d.prediction;
  return d.target * within(d.target * d.now + slack / d.pull, 0, d.weight);
}

ASYNCOPT_INLINE double best(SquaredHinge, const DualAt& d, double most = __builtin_inf()) {
  const double own = 1 / (2 * d.weight), beta = d.target * d.now;
  const double slack = 1 - d.target * d.prediction;
  return d.target * within(beta + (slack - own * beta) / (d.pull + own), 0, most);
}

// The slope of the linear part bounds the number.
ASYNCOPT_INLINE double best(ModifiedHuber, const DualAt& d) {
  return best(SquaredHinge{}, d, 4 * d.weight);
}

ASYNCOPT_INLINE double best(Squared, const DualAt& d) {
  const double own = 1 / d.weight;
  return d.now + (d.target - d.prediction - own * d.now) / (d.pull + own);
}

ASYNCOPT_INLINE double best(Huber, const DualAt& d) {
  const double most = d.weight * d.epsilon;
  return within(best(Squared{}, d), -most, most);
}

// The number is c times a probability with log-odds z, the root of a rising function. It is found
// by Newton steps, with bisection where a step leaves the bracket.
ASYNCOPT_INLINE double best(Logistic, const DualAt& d) {
  const double margin = d.target * d.prediction, beta = d.target * d.now;
  const double reach = d.pull * d.weight;
  double high = d.pull * beta - margin, low = high - reach;
  const double top = high;
  double z = within(-margin, low, high), probability = 0;
  for (int step = 0; step < 40; ++step) {
    probability = 1 / (1 + __builtin_exp(-z));
    const double value = z - top + reach * probability;
    (value > 0 ? high : low) = z;
    double next = z - value / (1 + reach * probability * (1 - probability));
    if (!(low < next && next < high)) next = (low + high) / 2;
    const double moved = __builtin_fabs(next - z);
    z = next;
    if (moved <= 1e-7 * (1 + __builtin_fabs(z))) break;
  }
  return d.target * d.weight / (1 + __builtin_exp(-z));
}

// How far an example's prediction moves when the example is added to the weights.
ASYNCOPT_INLINE float reach(const Row& row, const float* strides) {
  Lanes sums{}, x, stride = Lanes{} + 1;
  for (std::size_t i = 0; i < row.n; i += kLanes) {
    load(x, row.values + i);
    if (strides != nullptr) gather(stride, strides, row.columns + i);
    Mask mine;
    first(mine, row.n - i);
    sums += (Lanes)((Mask)(x * x * stride) & mine);
  }
  return sum(sums);
}

// True if a loss defines `best`.
template <class Loss>
concept HasDual = requires(const DualAt& at) { best(Loss{}, at); };

template <class Loss, class Access>
double dual_loop(const Rows& rows, std::size_t first, std::size_t last, std::uint64_t,
                 const Model& model, const Settings& settings) {
  const double scale = 1 / (static_cast<double>(settings.l2) * settings.examples);
  double losses = 0;
  for (std::size_t i = first; i < last; ++i) {
    const Row row(rows, i);
    const Anchor& anchor = rows.anchors[i];
    const double prediction = anchor.prediction + row.predict(model.weights);
    losses += row.loss<Loss>(prediction, settings).value;
    float& note = rows.notes[2 * i];
    float& norm = rows.notes[2 * i + 1];
    if (norm == 0) norm = reach(row, settings.strides);
    const double pull = scale * norm;
    float change = 0;
    if (pull != 0 && row.weight != 0) {
      const double now = anchor.number + note;
      const double found =
          best(Loss{}, {prediction, row.target, settings.epsilon, row.weight, now, pull});
      const auto next = static_cast<float>(found - anchor.number);
      change = static_cast<float>(scale * (static_cast<double>(next) - note));
      note = next;
    }
    const Turn turn(model.seat);
    if (change == 0) continue;
    const auto add = [&](auto stride) __attribute__((always_inline)) {
      for (std::size_t k = 0; k < row.n; ++k) {
        const std::int32_t u = row.columns[k];
        const float moved = change * stride(u) * row.values[k];
        Access::change(model.weights + u, [&](float& w) { w += moved; });
      }
    };
    if (settings.strides == nullptr)
      add([](std::int32_t) { return 1.0f; });
    else
      add([&](std::int32_t u) { return settings.strides[u]; });
  }
  return losses;
}

}  // namespace asyncopt::ASYNCOPT_ISA::linear
