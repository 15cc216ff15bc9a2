// Builds the kernel table: the loops of the selected instruction set, with the properties of losses
// and steps.
#include <vector>

#include "asyncopt/base/isa.h"
#include "asyncopt/models/linear/kernels.h"
#include "asyncopt/models/linear/losses.h"
#include "asyncopt/models/linear/steps.h"

ASYNCOPT_PER_ISA(linear, std::span<const ::asyncopt::linear::Loops>, loops)

namespace asyncopt::linear {
namespace {

template <class... Ls, class... Ss>
std::vector<Kernel> join(const Loops* loops, List<Ls...>, List<Ss...> steps) {
  std::vector<Kernel> all;
  const auto row = [&]<class L, class... S>(List<L>, List<S...>) {
    const auto add = [&]<class Step>(List<Step>) {
      const Loops& found = *loops++;
      if (found.alone[0] == nullptr) return;  // the step is not defined for the loss
      all.push_back({L::name, Step::name, Step::adaptive, Step::sums, Step::averages, Step::leads,
                     Step::strides, Step::notes, L::curvature, found});
    };
    (add(List<S>{}), ...);
  };
  (row(List<Ls>{}, steps), ...);
  return all;
}

}  // namespace

std::span<const Kernel> kernels() {
  static const std::vector<Kernel> all = join(picked_loops().data(), Losses{}, Steps{});
  return all;
}

}  // namespace asyncopt::linear
