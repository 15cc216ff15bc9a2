// Stochastic gradient steps on sparse rows: predict (gather), differentiate, step (scatter).
//
// The penalty is applied only to the columns of an example, in inverse proportion to how often they
// occur: the objective's penalty p(w) is the mean over the examples of the sum of
// spacing[u] p(w[u]) over the columns u of the example (Niu et al., arXiv 1106.5730, section 2). So
// a step writes only the example's columns, no counters of pending decay are shared, and the fixed
// point is that of the whole objective. The penalty is a proximal step (Duchi and Singer, JMLR
// 2009), which is stable however rare the column.
//
// The mean of the weights after each of n examples (Polyak and Juditsky, 1992) is weights - sums /
// n, where `sums` adds up every change times the number of averaged examples before it. It thus
// costs one addition per column of an example (as in Daume's averaged perceptron).
#pragma once

#include <type_traits>

#include "asyncopt/kernels/lanes.h"
#include "asyncopt/models/linear/access.h"
#include "asyncopt/models/linear/kernels.h"
#include "asyncopt/models/linear/losses.h"
#include "asyncopt/models/linear/steps.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

using namespace asyncopt::linear;
using asyncopt::linear::Loops;  // hides the Loops of the dense rules

ASYNCOPT_INLINE float dot(const float* w, const std::int32_t* columns, const float* values,
                          std::size_t n) {
  Lanes sums{}, x, weights;
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    load(x, values + i);
    gather(weights, w, columns + i);
    sums += x * weights;
  }
  if (i < n) {
    Mask mine;
    first(mine, n - i);
    load(x, values + i);
    gather(weights, w, columns + i);
    sums += (Lanes)((Mask)(x * weights) & mine);
  }
  return sum(sums);
}

// One example.
struct Row {
  std::size_t n;
  const std::int32_t* columns;
  const float* values;
  float target, weight;

  ASYNCOPT_INLINE Row(const Rows& rows, std::size_t i)
      : n(static_cast<std::size_t>(rows.begin[i + 1] - rows.begin[i])),
        columns(rows.columns + rows.begin[i]),
        values(rows.values + rows.begin[i]),
        target(rows.targets[i]),
        weight(rows.weights == nullptr ? 1 : rows.weights[i]) {}

  // The weighted loss at a prediction, in the prediction's precision.
  template <class Loss, class T>
  ASYNCOPT_INLINE LossAt<T> loss(T prediction, const Settings& settings) const {
    const LossAt<T> at = Loss::at(prediction, static_cast<T>(target), settings);
    return {weight * at.value, weight * at.derivative};
  }
  ASYNCOPT_INLINE float predict(const float* weights) const {
    return dot(weights, columns, values, n);
  }
};

// One example's step in numbers.
struct Step {
  float eta, derivative, l1, l2;
  float before;  // averaged examples before this one
};

// The functions below serve one coordinate (T: float) and several (T: Lanes).

template <class T>
ASYNCOPT_INLINE void accumulate(const Step& s, T& squares, const T& x) {
  const T gradient = s.derivative * x;
  squares += gradient * gradient;
}

// Steps along the loss, then towards 0 by the penalty. `x` are the example's values, `gaps` the
// columns' spacing.
template <class Kind, bool Penalized, class T>
ASYNCOPT_INLINE void move(const Step& s, T& w, const T& squares, const T& x, const T& gaps) {
  T eta = T{} + s.eta;
  if constexpr (Kind::adaptive) {
    T scale = squares;
    root(scale);
    eta = s.eta / (scale + kEps);
  }
  w -= eta * s.derivative * x;
  if constexpr (Penalized) {
    const T threshold = eta * s.l1 * gaps;
    const T below = w < threshold ? w : threshold;
    const T clipped = below < -threshold ? -threshold : below;
    w = (w - clipped) / (1 + eta * s.l2 * gaps);
  }
}

// Steps column by column: the sum of squares first, then the weight.
template <class Kind, bool Penalized, class Access>
struct ByColumn {
  static ASYNCOPT_INLINE void row(const Step& s, const Model& m, const float* spacing,
                                  const std::int32_t* columns, const float* values, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::int32_t u = columns[i];
      float squares = 0;
      if constexpr (Kind::adaptive)
        squares = Access::change(m.squares + u, [&](float& sum) { accumulate(s, sum, values[i]); });
      const float gap = Penalized ? spacing[u] : 0;
      float moved = 0;
      Access::change(m.weights + u, [&](float& w) {
        const float from = w;
        move<Kind, Penalized>(s, w, squares, values[i], gap);
        moved = w - from;
      });
      if constexpr (Kind::averages)
        Access::change(m.sums + u, [&](float& sum) { sum += s.before * moved; });
    }
  }
};

template <class Kind, bool Penalized>
struct ByLanes {
  static ASYNCOPT_INLINE void row(const Step& s, const Model& m, const float* spacing,
                                  const std::int32_t* columns, const float* values, std::size_t n) {
    for (std::size_t i = 0; i < n; i += kLanes) {
      Lanes w, x, squares{}, gaps{};
      load(x, values + i);
      gather(w, m.weights, columns + i);
      if constexpr (Penalized) gather(gaps, spacing, columns + i);
      if constexpr (Kind::adaptive) {
        gather(squares, m.squares, columns + i);
        accumulate(s, squares, x);
        scatter(squares, m.squares, columns + i, n - i);
      }
      [[maybe_unused]] const Lanes from = w;
      move<Kind, Penalized>(s, w, squares, x, gaps);
      scatter(w, m.weights, columns + i, n - i);
      if constexpr (Kind::averages) {
        Lanes sums;
        gather(sums, m.sums, columns + i);
        sums += s.before * (w - from);
        scatter(sums, m.sums, columns + i, n - i);
      }
    }
  }
};

// Without squares, ByColumn is 1.1 to 1.3 times as fast as ByLanes.
template <class Kind, bool Penalized>
using Racy =
    std::conditional_t<Kind::adaptive, ByLanes<Kind, Penalized>, ByColumn<Kind, Penalized, Plain>>;
template <class Kind, bool Penalized>
using Exact = ByColumn<Kind, Penalized, Atomic>;

template <class Loss, class Kind, bool Penalized, template <class, bool> class Access>
double loop(const Rows& rows, std::size_t first, std::size_t last, std::uint64_t t,
            const Model& model, const Settings& settings) {
  double losses = 0;
  for (std::size_t i = first; i < last; ++i) {
    const Row row(rows, i);
    const LossAt<float> loss = row.loss<Loss>(row.predict(model.weights), settings);
    const Turn turn(model.seat);
    losses += static_cast<double>(loss.value);
    const std::uint64_t now = t + (i - first);
    float l2 = settings.l2;
    if (loss.derivative == 0) {
      if (!Penalized) continue;
      if (!Kind::leads && settings.l1 == 0) {
        if (!pays_for_flat_ones(now)) continue;
        l2 *= kFlatOnes;
      }
    }
    const float eta = settings.rate(now);
    const float before = now < settings.since ? 0 : static_cast<float>(now - settings.since);
    Access<Kind, Penalized>::row({eta, loss.derivative, settings.l1, l2, before}, model,
                                 settings.spacing, row.columns, row.values, row.n);
  }
  return losses;
}

}  // namespace asyncopt::ASYNCOPT_ISA::linear
