// Compiled once per instruction set, with ASYNCOPT_ISA naming the namespace.
#include <array>

#include "asyncopt/models/linear/corrected.h"
#include "asyncopt/models/linear/dual.h"
#include "asyncopt/models/linear/ftrl.h"
#include "asyncopt/models/linear/gauge.h"
#include "asyncopt/models/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

template <class Kind, bool Penalized>
using PlainRow = std::conditional_t<Kind::leads, Leader<Penalized, Plain>, Racy<Kind, Penalized>>;
template <class Kind, bool Penalized>
using AtomicRow =
    std::conditional_t<Kind::leads, Leader<Penalized, Atomic>, Exact<Kind, Penalized>>;

// Empty if the step is not defined for the loss.
template <class Loss, class Kind>
constexpr Loops loops_of() {
  constexpr bool dual = std::is_same_v<Kind, Dual>;
  if constexpr ((Kind::smooth && !Loss::smooth) || (dual && !HasDual<Loss>)) {
    return {};
  } else if constexpr (dual) {
    constexpr Loop plain = &dual_loop<Loss, Plain>, atomic = &dual_loop<Loss, Atomic>;
    return {{plain, plain}, {plain, plain}, {atomic, atomic}, &gauge<Loss>};
  } else if constexpr (Kind::smooth) {
    return {{&corrected_loop<Loss, Kind, false, Plain, Plain>,
             &corrected_loop<Loss, Kind, true, Plain, Plain>},
            {&corrected_loop<Loss, Kind, false, Plain, Atomic>,
             &corrected_loop<Loss, Kind, true, Plain, Atomic>},
            {&corrected_loop<Loss, Kind, false, Atomic, Atomic>,
             &corrected_loop<Loss, Kind, true, Atomic, Atomic>},
            &gauge<Loss>};
  } else {
    constexpr Loop plain[] = {&loop<Loss, Kind, false, PlainRow>,
                              &loop<Loss, Kind, true, PlainRow>};
    constexpr Loop atomic[] = {&loop<Loss, Kind, false, AtomicRow>,
                               &loop<Loss, Kind, true, AtomicRow>};
    // A change lost from the weight but not from the sum would bias the mean forever.
    const Loop* const racy = Kind::averages ? atomic : plain;
    return {{plain[0], plain[1]}, {racy[0], racy[1]}, {atomic[0], atomic[1]}};
  }
}

// Losses outermost, steps innermost.
template <class Loss, class... Ss>
constexpr std::array<Loops, sizeof...(Ss)> line(List<Ss...>) {
  return {loops_of<Loss, Ss>()...};
}
template <class... Ls>
constexpr auto table(List<Ls...>) {
  return std::array{line<Ls>(Steps{})...};
}
constexpr auto entries = table(Losses{});

extern const std::span<const Loops> loops;
const std::span<const Loops> loops{entries[0].data(), Losses::size * Steps::size};

}  // namespace asyncopt::ASYNCOPT_ISA::linear
