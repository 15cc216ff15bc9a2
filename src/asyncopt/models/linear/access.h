// How a number that other workers write too is changed: change(at, f) calls f on the value, which
// may be several times, stores what that made of it and returns that.
#pragma once

#include "asyncopt/kernels/lanes.h"

namespace asyncopt::ASYNCOPT_ISA::linear {

// A load and a store, which race on purpose where there are others: asyncopt/kernels/racy.h.
struct Plain {
  template <class Change>
  static ASYNCOPT_INLINE float change(float* at, Change change) {
    float value = racy_load(at);
    change(value);
    racy_store(at, value, 0);
    return value;
  }
};

// No change is lost.
struct Atomic {
  template <class Change>
  static ASYNCOPT_INLINE float change(float* at, Change change) {
    return exchange(at, change);
  }
};

}  // namespace asyncopt::ASYNCOPT_ISA::linear
