// Tables of function pointers, generated from the lists of rules and dtypes.
#pragma once

#include "asyncopt/kernels/loops.h"
#include "asyncopt/rules/idle.h"
#include "asyncopt/rules/list.h"

namespace asyncopt::ASYNCOPT_ISA {

template <class Rule, class D>
constexpr Loops make_loops(const Loops* linear) {
  return {
      &racy_loop<Rule, typename D::param, typename D::state>,
      &exact_loop<Rule, typename D::param, typename D::state, true>,
      &exact_loop<Rule, typename D::param, typename D::state, false>,
      &finite_loop<typename D::param>,
      &sum_loop<typename D::param>,
      linear,
  };
}
template <class Map, class D>
inline constexpr Loops linear_loops = make_loops<Map, D>(nullptr);
template <class Rule, class D>
inline constexpr Loops loops_of = make_loops<Rule, D>(&linear_loops<idle_of<Rule>, D>);

template <class RuleList, class DtypeList>
struct LoopTable;

template <class... Rs, class... Ds>
struct LoopTable<List<Rs...>, List<Ds...>> {
  template <class R>
  struct Row {
    static constexpr Loops entries[] = {loops_of<R, Ds>...};
  };
  static constexpr std::size_t size = sizeof...(Rs) * sizeof...(Ds);
  struct Flat {
    Loops entries[size];
  };
  static constexpr Flat flat = [] {
    Flat f{};
    std::size_t i = 0;
    (
        (void)[&] {
          for (const Loops& l : Row<Rs>::entries) f.entries[i++] = l;
        }(),
        ...);
    return f;
  }();
};

}  // namespace asyncopt::ASYNCOPT_ISA
