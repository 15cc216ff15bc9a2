// Read-modify-write of a number that other workers write too. change(at, f) stores f(value) and
// returns it. It may call f more than once.
#pragma once

#include "asyncopt/kernels/lanes.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// A plain load and store, which race on purpose: asyncopt/kernels/racy.h.
struct Plain {
  template <class Change>
  static ASYNCOPT_INLINE float change(float* at, Change change) {
    float value = racy_load(at);
    change(value);
    racy_store(at, value, 0);
    return value;
  }
};

// Compare-and-swap: no update is lost.
struct Atomic {
  template <class Change>
  static ASYNCOPT_INLINE float change(float* at, Change change) {
    return exchange(at, change);
  }
};

}  // namespace asyncopt::ASYNCOPT_ISA::linear
