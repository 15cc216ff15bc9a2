// Stochastic subgradient steps on edges (Niu et al., arXiv 1106.5730, sections 2 and 7).
//
// The two ends of an edge move towards each other in every class by half of rate times weight, but
// no further than their meeting point. This is the proximal step (Bertsekas, Mathematical
// Programming 2011); a subgradient step would overshoot. Then each row is projected onto the
// simplex.
//
// Memory is accessed as in asyncopt/kernels/racy.h, with plain vectors that race on purpose. Rows
// are copied first, so a written row adds up to 1 whatever other threads write meanwhile.
#pragma once

#include <algorithm>
#include <type_traits>

#include "asyncopt/kernels/lanes.h"
#include "asyncopt/models/cuts/kernels.h"

namespace asyncopt::ASYNCOPT_ISA::cuts {

using namespace asyncopt::cuts;

// The lanes of vector i that are classes.
ASYNCOPT_INLINE void classes_of(Mask& mine, std::size_t i, std::size_t classes) {
  first(mine, std::min(classes - i * kLanes, kLanes));
}

// Projects a row onto the simplex: the nearest point with no negative share and sum 1. Shares above
// a threshold are lowered by it, the others become 0. The threshold is found from below: each round
// drops the shares under the last one (Michelot, JOTA 1986; problem of Duchi et al., ICML 2008).
// Rows that add up to 1 within rounding stay; with two classes all do, as the moves cancel out.
template <class Count>
ASYNCOPT_INLINE void project(Lanes* row, Count vectors, std::size_t classes) {
  constexpr float kRounding = 1e-6f;
  Lanes sums{};
  for (std::size_t i = 0; i < vectors; ++i) sums += row[i];
  const float excess = sum(sums) - 1;
  if (__builtin_fabsf(excess) <= kRounding) return;
  float threshold = excess / static_cast<float>(classes);
  for (std::size_t above = classes, left = 0;; above = left) {
    Lanes counts{};
    sums = Lanes{};
    for (std::size_t i = 0; i < vectors; ++i) {
      Mask mine;
      classes_of(mine, i, classes);
      mine &= row[i] > threshold;
      sums += (Lanes)((Mask)row[i] & mine);
      counts += (Lanes)((Mask)(Lanes{} + 1.0f) & mine);
    }
    left = static_cast<std::size_t>(sum(counts));
    if (left == 0 || left >= above) break;
    threshold = (sum(sums) - 1) / static_cast<float>(left);
  }
  for (std::size_t i = 0; i < vectors; ++i) {
    Mask mine;
    classes_of(mine, i, classes);
    row[i] = (Lanes)((Mask)(row[i] - threshold) & mine & (row[i] > threshold));
  }
}

template <class Count>
ASYNCOPT_INLINE void write(float* at, const Lanes* row, Count vectors) {
  for (std::size_t i = 0; i < vectors; ++i) racy_store(row[i], at + i * kLanes);
}

template <std::size_t Most, class Count>
ASYNCOPT_INLINE double step(const Model& m, std::int32_t tail, std::int32_t head, float weight,
                            float rate, Count vectors) {
  const auto at = [&](std::int32_t v) {
    return m.shares + static_cast<std::size_t>(v) * vectors * kLanes;
  };
  float *const u = at(tail), *const v = at(head);
  const bool u_fixed = m.fixed[tail] != 0, v_fixed = m.fixed[head] != 0;
  const float part = u_fixed || v_fixed ? 1 : 0.5f;  // share of the distance that an end moves
  const float most = rate * weight / 2;
  Lanes a[Most], b[Most], distances{};
  for (std::size_t i = 0; i < vectors; ++i) {
    racy_load(a[i], u + i * kLanes);
    racy_load(b[i], v + i * kLanes);
    const Lanes difference = b[i] - a[i];
    distances += difference < 0 ? -difference : difference;
    Lanes move = part * difference;
    move = move > most ? Lanes{} + most : move;
    move = move < -most ? Lanes{} - most : move;
    a[i] += move;
    b[i] -= move;
  }
  const float distance = sum(distances);
  if (distance > 0 && !u_fixed) {
    project(a, vectors, m.classes);
    write(u, a, vectors);
  }
  if (distance > 0 && !v_fixed) {
    project(b, vectors, m.classes);
    write(v, b, vectors);
  }
  return static_cast<double>(weight * distance / 2);
}

inline double walk(const Edges& edges, std::size_t first, std::size_t last, const Model& m,
                   float rate) {
  const std::size_t vectors = stride_of(m.classes) / kLanes;
  const auto row = [&](std::int32_t v) {
    return m.shares + static_cast<std::size_t>(v) * vectors * kLanes;
  };
  double losses = 0;
  for (std::size_t k = first; k < last; ++k) {
    const std::size_t later = std::min(k + kAhead, last - 1);
    prefetch_row(row(edges.tails[later]), vectors * kLanes);
    prefetch_row(row(edges.heads[later]), vectors * kLanes);
    const std::int32_t tail = edges.tails[k], head = edges.heads[k];
    if (vectors == 1)  // in registers
      losses +=
          step<1>(m, tail, head, edges.weights[k], rate, std::integral_constant<std::size_t, 1>{});
    else
      losses += step<kMostClasses / kLanes>(m, tail, head, edges.weights[k], rate, vectors);
  }
  return losses;
}

}  // namespace asyncopt::ASYNCOPT_ISA::cuts
