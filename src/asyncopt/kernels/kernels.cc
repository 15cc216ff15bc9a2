// Compiled once per instruction set, with ASYNCOPT_ISA naming the namespace.
#include "asyncopt/kernels/table.h"

namespace asyncopt::ASYNCOPT_ISA::dense {

extern const std::span<const Loops> loops;
const std::span<const Loops> loops = LoopTable<Rules, Dtypes>::flat.entries;

}  // namespace asyncopt::ASYNCOPT_ISA::dense
