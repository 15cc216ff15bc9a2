// Joins the loops of the picked instruction set with the facts of the lists.
#include <cstring>
#include <vector>

#include "asyncopt/kernels.h"
#include "asyncopt/linear/kernels.h"
#include "asyncopt/linear/losses.h"
#include "asyncopt/linear/steps.h"

namespace asyncopt {

namespace baseline::linear {
extern const asyncopt::linear::Loops* const loops;
}
#ifdef ASYNCOPT_HAVE_X86_ISAS
namespace avx2::linear {
extern const asyncopt::linear::Loops* const loops;
}
namespace avx512::linear {
extern const asyncopt::linear::Loops* const loops;
}
#endif

namespace linear {
namespace {

const Loops* picked_loops() {
#ifdef ASYNCOPT_HAVE_X86_ISAS
  if (std::strcmp(picked_isa(), "avx512") == 0) return avx512::linear::loops;
  if (std::strcmp(picked_isa(), "avx2") == 0) return avx2::linear::loops;
#endif
  return baseline::linear::loops;
}

template <class... Ls, class... Ss>
std::vector<Kernel> join(const Loops* loops, List<Ls...>, List<Ss...> steps) {
  std::vector<Kernel> all;
  const auto row = [&]<class L, class... S>(List<L>, List<S...>) {
    (all.push_back({L::name, S::name, S::adaptive, L::curvature, *loops++}), ...);
  };
  (row(List<Ls>{}, steps), ...);
  return all;
}

}  // namespace

std::span<const Kernel> kernels() {
  static const std::vector<Kernel> all = join(picked_loops(), Losses{}, Steps{});
  return all;
}

}  // namespace linear
}  // namespace asyncopt
