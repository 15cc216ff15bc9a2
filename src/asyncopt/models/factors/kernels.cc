// Compiled once per instruction set, with ASYNCOPT_ISA naming the namespace.
#include "asyncopt/models/factors/loops.h"

namespace asyncopt::ASYNCOPT_ISA::factors {

template <class Loss>
constexpr Kernel kernel_of{Loss::name, Loss::ranks, &Loss::template loop<Racy>,
                           &Loss::template loop<Exact>};

extern const std::span<const Kernel> table;
static constexpr Kernel all[] = {kernel_of<SquaredError>, kernel_of<Bpr>};
const std::span<const Kernel> table = all;

}  // namespace asyncopt::ASYNCOPT_ISA::factors
