// Compiled once per instruction set, with ASYNCOPT_ISA naming the namespace.
#include "asyncopt/linear/loops.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

template <class Loss, class Kind>
inline constexpr Loops loops_of{
    {&loop<Loss, Kind, false, Racy>, &loop<Loss, Kind, true, Racy>},
    {&loop<Loss, Kind, false, Exact>, &loop<Loss, Kind, true, Exact>},
};

// Losses outermost, steps innermost.
template <class LossList>
struct Table;
template <class... Ls>
struct Table<List<Ls...>> {
  static constexpr Loops entries[][Steps::size] = {
      {loops_of<Ls, Scaled>, loops_of<Ls, AdaGrad>}...};
};

extern const std::span<const Loops> loops;
const std::span<const Loops> loops{Table<Losses>::entries[0], Losses::size * Steps::size};

}  // namespace asyncopt::ASYNCOPT_ISA::linear
