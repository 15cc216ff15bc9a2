// From the lists to tables of function pointers: nothing is written by hand per rule or dtype.
#pragma once

#include "asyncopt/idle.h"
#include "asyncopt/loops.h"

namespace asyncopt::ASYNCOPT_ISA {

template <class Rule, class D>
constexpr Loops make_loops(const Loops* settled) {
  return {
      &racy_loop<Rule, typename D::param, typename D::state>,
      &exact_loop<Rule, typename D::param, typename D::state, true>,
      &exact_loop<Rule, typename D::param, typename D::state, false>,
      &finite_loop<typename D::param>,
      &sum_loop<typename D::param>,
      settled,
  };
}
template <class Map, class D>
inline constexpr Loops settled_loops = make_loops<Map, D>(nullptr);
template <class Rule, class D>
inline constexpr Loops loops_of = make_loops<Rule, D>(&settled_loops<idle_of<Rule>, D>);

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
  static constexpr const Loops* entries = flat.entries;
};

}  // namespace asyncopt::ASYNCOPT_ISA
