// Idle steps: the effect of steps on a row without a gradient.
//
// Momentum continues to move such a row; moments and weights decay. Under most rules, at once or
// after some steps (`linear_after`), a step is linear in the parameter and the slots. Any number of
// steps, each with its own learning rate, is then one small matrix, applied by one pass over the
// row. The matrix is the product of the rule's `linear_step`s, evaluated on one unit vector per
// value of an element.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "asyncopt/rules/rules.h"

namespace asyncopt {

// Properties of a rule's steps without a gradient.
struct IdleSteps {
  std::size_t values;      // numbers per element: maps are values x values doubles
  std::size_t coef_bytes;  // size of a map as an argument of its loops
  bool (*moves_idle_rows)(const double* hyper);
  double (*linear_after)(const double* hyper);
  void (*compose)(const void* coef, double* map);
  void (*coefficients)(const double* map, void* coef);
};

// The linear map in the form of a rule, for the loops, with K slots per element and R per row. Each
// per-row value decays independently.
template <std::size_t K, std::size_t R>
struct Idle {
  static constexpr Names<K + R> slot_names{};
  static constexpr std::size_t row_slots = R;
  static constexpr std::size_t values = 1 + K + R;

  template <class C>
  struct Coef {
    C map[values][values];
  };

  // 0 times infinity is 0 here: an overflowed slot must not affect values that do not depend on it.
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE C part(C factor, C value) {
    return factor != 0 ? factor * value : C(0);
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C, C* s) {
    C before[1 + K] = {w};
    for (std::size_t k = 0; k < K; ++k) before[1 + k] = s[k];
    for (std::size_t i = 0; i <= K; ++i) {
      C sum = part(c.map[i][0], before[0]);
      for (std::size_t k = 1; k <= K; ++k) sum += part(c.map[i][k], before[k]);
      (i == 0 ? w : s[i - 1]) = sum;
    }
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s, const C*, C) {
    apply(c, w, g, s);
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE C gradient(const Coef<C>&, C, C) {
    return C(0);
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void begin_row(const Coef<C>& c, C, C* r) {
    for (std::size_t k = 0; k < R; ++k) r[k] *= c.map[1 + K + k][1 + K + k];
  }
};

template <class Rule>
using idle_of = Idle<Rule::slot_names.size() - row_slots_of<Rule>, std::size_t{row_slots_of<Rule>}>;

// The engine's interface to a rule's idle steps. If a rule does not define them, all of its steps
// are taken one by one.
template <class Rule, class C>
struct IdleOf {
  using Coef = typename Rule::template Coef<C>;
  using Wide = typename Rule::template Coef<double>;
  using Map = typename idle_of<Rule>::template Coef<C>;
  static constexpr std::size_t values = idle_of<Rule>::values;

  static bool moves_idle_rows(const double* hyper) {
    if constexpr (requires { &Rule::moves_idle_rows; })
      return Rule::moves_idle_rows(read(hyper));
    else
      return true;
  }
  static double linear_after(const double* hyper) {
    if constexpr (requires { &Rule::linear_after; })
      return Rule::linear_after(read(hyper), std::numeric_limits<C>::epsilon() / 2);
    else
      return kNever;
  }
  // map := map * (the linear step of these coefficients), row by row of `values` numbers.
  static void compose(const void* coef, double* map) {
    if constexpr (requires(Wide c, double x) { Rule::linear_step(c, x, &x); }) {
      const Wide c = widened(coef);
      double step[values][values], product[values][values] = {};
      for (std::size_t j = 0; j < values; ++j) {
        double column[values] = {};
        column[j] = 1;
        Rule::linear_step(c, column[0], column + 1);
        for (std::size_t i = 0; i < values; ++i) step[i][j] = column[i];
      }
      for (std::size_t i = 0; i < values; ++i)
        for (std::size_t k = 0; k < values; ++k)
          for (std::size_t j = 0; j < values; ++j)
            product[i][j] += map[i * values + k] * step[k][j];
      std::memcpy(map, product, sizeof product);
    }
  }
  // The coefficients of the loops for a map.
  static void coefficients(const double* map, void* coef) {
    Map narrow;
    for (std::size_t i = 0; i < values; ++i)
      for (std::size_t j = 0; j < values; ++j)
        narrow.map[i][j] = static_cast<C>(map[i * values + j]);
    std::memcpy(coef, &narrow, sizeof narrow);
  }

  static constexpr IdleSteps steps{values,        sizeof(Map), &moves_idle_rows,
                                   &linear_after, &compose,    &coefficients};
  static_assert(values <= kMaxValues && sizeof(Map) <= kMaxIdleCoef);

 private:
  static typename Rule::Hyper read(const double* hyper) {
    typename Rule::Hyper h;
    std::memcpy(&h, hyper, sizeof h);
    return h;
  }
  // Converts coefficients to double, so that products of thousands of steps do not accumulate
  // rounding errors of C.
  static Wide widened(const void* coef) {
    constexpr std::size_t n = sizeof(Coef) / sizeof(C);
    static_assert(sizeof(Wide) == n * sizeof(double), "coefficients are numbers of type C");
    std::array<C, n> narrow;
    std::memcpy(narrow.data(), coef, sizeof narrow);
    std::array<double, n> wide;
    std::copy(narrow.begin(), narrow.end(), wide.begin());
    return std::bit_cast<Wide>(wide);
  }
};

}  // namespace asyncopt
