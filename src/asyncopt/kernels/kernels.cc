// Compiled once per instruction set, with ASYNCOPT_ISA naming the namespace.
#include "asyncopt/kernels/table.h"

namespace asyncopt::ASYNCOPT_ISA {

extern const Loops* const loops;
const Loops* const loops = LoopTable<Rules, Dtypes>::entries;

}  // namespace asyncopt::ASYNCOPT_ISA
