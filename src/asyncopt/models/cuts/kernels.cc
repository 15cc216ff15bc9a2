// Compiled once per instruction set, with ASYNCOPT_ISA naming the namespace.
#include "asyncopt/models/cuts/loops.h"

namespace asyncopt::ASYNCOPT_ISA::cuts {

extern const Loop loop;
const Loop loop = &walk;

}  // namespace asyncopt::ASYNCOPT_ISA::cuts
