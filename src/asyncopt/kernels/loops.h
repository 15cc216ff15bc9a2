// Loops that apply a rule: one body for every rule, dtype and vector width.
//
// `racy_loop` reads and writes by plain, vectorized accesses that race on purpose (racy.h).
//
// `exact_loop` commits each element by compare-exchange: nothing is lost (or every loss is
// counted).
#pragma once

#include "asyncopt/kernels/exchange.h"
#include "asyncopt/kernels/kernels.h"
#include "asyncopt/kernels/racy.h"

namespace asyncopt::ASYNCOPT_ISA {

// Slots of one value per element.
template <class Rule>
inline constexpr std::size_t element_slots = Rule::slot_names.size() - row_slots_of<Rule>;

// r[]: the values of the row, which has root_width^2 elements.
template <class Rule, class Coef, class C>
ASYNCOPT_INLINE void apply_rule(const Coef& c, C& x, C g, C* s, [[maybe_unused]] const C* r,
                                [[maybe_unused]] C root_width) {
  if constexpr (row_slots_of<Rule> > 0)
    Rule::apply(c, x, g, s, r, root_width);
  else
    Rule::apply(c, x, g, s);
}

// The mean of a row's squared gradients, in sixteen partial sums for any vector width, so that
// every instruction set gives the same bits.
template <class Rule, class T, class Coef>
ASYNCOPT_INLINE arithmetic_t<T> mean_square(const Coef& c, const T* w, const T* g, std::size_t n) {
  using C = arithmetic_t<T>;
  constexpr std::size_t L = 16;
  C sums[L] = {};
  const auto add = [&](std::size_t i, std::size_t k) {
    const C x =
        Rule::gradient(c, static_cast<C>(racy_load(w + i + k)), static_cast<C>(widen(g[i + k])));
    sums[k] += x * x;
  };
  std::size_t i = 0;
  for (; i + L <= n; i += L)
    for (std::size_t k = 0; k < L; ++k) add(i, k);
  for (std::size_t k = 0; i + k < n; ++k) add(i, k);
  for (std::size_t half = L / 2; half > 0; half /= 2)
    for (std::size_t k = 0; k < half; ++k) sums[k] += sums[k + half];
  return sums[0] / static_cast<C>(n);
}

// 16 random bits for the stochastic rounding of the k-th value of a row.
ASYNCOPT_INLINE std::uint32_t row_draw(std::uint32_t seed, std::size_t k) {
  return noise(seed + 0x5BD1E995u, static_cast<std::uint32_t>(k));
}

// Updates the per-row values of a span's row and returns them in r[].
template <class Rule, class T, class S, class Coef, class C>
ASYNCOPT_INLINE void racy_begin_row(const Coef& c, const Span& span, C* r) {
  constexpr std::size_t K = element_slots<Rule>, R = row_slots_of<Rule>;
  for (std::size_t k = 0; k < R; ++k) r[k] = racy_load(static_cast<const S*>(span.slots[K + k]));
  const C mean = mean_square<Rule>(c, static_cast<const T*>(span.param),
                                   static_cast<const T*>(span.grad), span.n);
  Rule::begin_row(c, mean, r);
  for (std::size_t k = 0; k < R; ++k)
    racy_store(static_cast<S*>(span.slots[K + k]), r[k], row_draw(span.seed, k));
}

template <class Rule, class T, class S>
void racy_loop(const void* coef, const Span& span) {
  using C = arithmetic_t<T>;
  constexpr std::size_t K = element_slots<Rule>;
  const auto c = *static_cast<const typename Rule::template Coef<C>*>(coef);
  T* const w = static_cast<T*>(span.param);
  const T* const g = static_cast<const T*>(span.grad);
  S* const s0 = static_cast<S*>(span.slots[0]);
  S* const s1 = static_cast<S*>(span.slots[1]);
  S* const s2 = static_cast<S*>(span.slots[2]);
  std::uint32_t place = weyl(span.seed, 0);
  const std::size_t n = span.n;
  C r[kMaxSlots] = {};
  if constexpr (row_slots_of<Rule> > 0) {
    if (n == 0) return;
    racy_begin_row<Rule, T, S>(c, span, r);
  }
  const C root_width = root(static_cast<C>(n));
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    C x = racy_load(w + i);
    C s[kMaxSlots] = {};
    if constexpr (K > 0) s[0] = racy_load(s0 + i);
    if constexpr (K > 1) s[1] = racy_load(s1 + i);
    if constexpr (K > 2) s[2] = racy_load(s2 + i);
    apply_rule<Rule>(c, x, static_cast<C>(widen(g[i])), s, r, root_width);
    const Draws<K, T, S> draws(place);
    place += kWeylStep;
    racy_store(w + i, x, draws.param());
    if constexpr (K > 0) racy_store(s0 + i, s[0], draws.slot(0));
    if constexpr (K > 1) racy_store(s1 + i, s[1], draws.slot(1));
    if constexpr (K > 2) racy_store(s2 + i, s[2], draws.slot(2));
  }
}

// The same by compare-exchange; see exact_loop.
template <class Rule, class T, class S, bool Retry, class Coef, class C>
ASYNCOPT_INLINE void exact_begin_row(const Coef& c, const Span& span, C* r, Tally& tally) {
  constexpr std::size_t K = element_slots<Rule>, R = row_slots_of<Rule>;
  const C mean = mean_square<Rule>(c, static_cast<const T*>(span.param),
                                   static_cast<const T*>(span.grad), span.n);
  bits_t<S> seen[kMaxSlots] = {};
  const auto at = [&span](std::size_t k) { return static_cast<bits_t<S>*>(span.slots[K + k]); };
  for (std::size_t k = 0; k < R; ++k) seen[k] = load_relaxed(at(k));
  const auto compute = [&] {
    for (std::size_t k = 0; k < R; ++k) r[k] = widen(cast_bits<S>(seen[k]));
    Rule::begin_row(c, mean, r);
  };
  compute();
  for (std::size_t k = 0; k < R; ++k)
    commit<Retry, S>(
        at(k), seen[k], tally.lost_state_updates, tally.retries,
        [&] { return narrow<S>(r[k], row_draw(span.seed, k)); }, compute);
}

// Every element by compare-exchange (exchange.h).
template <class Rule, class T, class S, bool Retry>
void exact_loop(const void* coef, const Span& span, Tally& tally) {
  using C = arithmetic_t<T>;
  constexpr std::size_t K = element_slots<Rule>;
  const auto c = *static_cast<const typename Rule::template Coef<C>*>(coef);
  const T* const g = static_cast<const T*>(span.grad);
  C r[kMaxSlots] = {};
  if constexpr (row_slots_of<Rule> > 0) {
    if (span.n == 0) return;
    exact_begin_row<Rule, T, S, Retry>(c, span, r, tally);
  }
  const C root_width = root(static_cast<C>(span.n));
  for (std::size_t i = 0; i < span.n; ++i) {
    const auto gradient = static_cast<C>(widen(g[i]));
    const Draws<K, T, S> draws(weyl(span.seed, static_cast<std::uint32_t>(i)));
    commit_element<K, T, S, Retry>(span.param, span.slots, i, draws, tally, [&](C& x, C* s) {
      apply_rule<Rule>(c, x, gradient, s, r, root_width);
    });
  }
}

// Adds up gradients in their order and rounds the sum once, to nearest.
template <class T>
void sum_loop(void* sum, const void* const* grads, std::size_t count, std::size_t n) {
  using C = arithmetic_t<T>;
  constexpr std::size_t chunk = 64;
  for (std::size_t begin = 0; begin < n; begin += chunk) {
    const std::size_t size = n - begin < chunk ? n - begin : chunk;
    C sums[chunk] = {};
    for (std::size_t k = 0; k < count; ++k) {
      const T* const from = static_cast<const T*>(grads[k]) + begin;
      for (std::size_t i = 0; i < size; ++i) sums[i] += static_cast<C>(widen(from[i]));
    }
    T* const to = static_cast<T*>(sum) + begin;
    for (std::size_t i = 0; i < size; ++i) to[i] = nearest<T>(sums[i]);
  }
}

// True if no value is infinite or NaN.
template <class T>
bool finite_loop(const void* values, std::size_t n) {
  using Bits = bits_t<T>;
  const auto* const p = static_cast<const T*>(values);
  constexpr std::size_t chunk = 4096;  // elements between tests for an early exit
  for (std::size_t begin = 0; begin < n; begin += chunk) {
    const std::size_t end = n - begin < chunk ? n : begin + chunk;
    Bits bad = 0;
    for (std::size_t i = begin; i < end; ++i) bad |= static_cast<Bits>(!is_finite(p[i]));
    if (bad != 0) return false;
  }
  return true;
}

}  // namespace asyncopt::ASYNCOPT_ISA
