// One element committed by compare-exchange, on the host and on GPUs.
#pragma once

#include "asyncopt/base/draws.h"
#include "asyncopt/kernels/kernels.h"

namespace asyncopt {

// Tells nvcc what it cannot see: without it, atomics are ready for other kinds of memory too.
#ifdef __CUDA_ARCH__
#define ASYNCOPT_IN_GLOBAL_MEMORY(at) __builtin_assume(__isGlobal(at))
#else
#define ASYNCOPT_IN_GLOBAL_MEMORY(at)
#endif

template <class Bits>
ASYNCOPT_HD ASYNCOPT_INLINE Bits load_bits(const Bits* at) {
  ASYNCOPT_IN_GLOBAL_MEMORY(at);
#ifdef __CUDA_ARCH__
  return *static_cast<const volatile Bits*>(at);
#else
  return __atomic_load_n(at, __ATOMIC_RELAXED);
#endif
}

// Replaces `seen` by `next`; if something else is there, that is in `seen` then. Relaxed.
template <class Bits>
ASYNCOPT_HD ASYNCOPT_INLINE bool exchange_bits(Bits* at, Bits& seen, Bits next) {
  ASYNCOPT_IN_GLOBAL_MEMORY(at);
#ifdef __CUDA_ARCH__
  Bits found;
  if constexpr (sizeof(Bits) == sizeof(unsigned long long))
    found = atomicCAS(reinterpret_cast<unsigned long long*>(at), seen, next);
  else
    found = atomicCAS(at, seen, next);
  const bool is_done = found == seen;
  seen = found;
  return is_done;
#else
  return __atomic_compare_exchange_n(at, &seen, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
#endif
}

// Adds to a float32 or float64 that others add to as well; nothing is lost.
template <class T>
ASYNCOPT_HD ASYNCOPT_INLINE T fetch_add(T* at, T x) {
  ASYNCOPT_IN_GLOBAL_MEMORY(at);
#ifdef __CUDA_ARCH__
  return atomicAdd(at, x);
#else
  bits_t<T>* const bits = reinterpret_cast<bits_t<T>*>(at);
  bits_t<T> seen = load_bits(bits);
  while (!exchange_bits(bits, seen, cast_bits<bits_t<T>>(cast_bits<T>(seen) + x))) {
  }
  return cast_bits<T>(seen);
#endif
}

// Replaces the bits that were `seen` by those of next(). If others are there by now, they are in
// `seen` then, and either compute() looks at them and it is tried again, or this update is dropped
// and counted as lost.
template <bool Retry, class T, class Next, class Compute>
ASYNCOPT_HD ASYNCOPT_INLINE void commit(bits_t<T>* at, bits_t<T>& seen, std::uint64_t& lost,
                                        std::uint64_t& retries, Next next, Compute compute) {
  while (!exchange_bits(at, seen, cast_bits<bits_t<T>>(next()))) {
    if constexpr (!Retry) {
      ++lost;
      return;
    }
    ++retries;
    compute();
  }
}

// One element of K slots, slots first, the parameter last. `apply(x, s)` updates a parameter and
// its slots. On a conflict either the value is computed again from what was found (nothing is
// lost), or the update of that value is dropped and counted: exactly what a racing plain store
// would have cost.
template <std::size_t K, class T, class S, bool Retry, class Apply>
ASYNCOPT_HD ASYNCOPT_INLINE void commit_element(void* param, void* const* slots, std::size_t i,
                                                const Draws<K, T, S>& draws, Tally& tally,
                                                Apply apply) {
  using C = arithmetic_t<T>;
  bits_t<T>* const at = static_cast<bits_t<T>*>(param) + i;
  bits_t<T> seen = load_bits(at);
  bits_t<S> seen_slots[kMaxSlots] = {};
  for (std::size_t k = 0; k < K; ++k)
    seen_slots[k] = load_bits(static_cast<const bits_t<S>*>(slots[k]) + i);

  C x{}, s[kMaxSlots] = {};
  const auto compute = [&] {
    x = widen(cast_bits<T>(seen));
    for (std::size_t k = 0; k < K; ++k) s[k] = widen(cast_bits<S>(seen_slots[k]));
    apply(x, s);
  };
  compute();
  for (std::size_t k = 0; k < K; ++k)
    commit<Retry, S>(
        static_cast<bits_t<S>*>(slots[k]) + i, seen_slots[k], tally.lost_state_updates,
        tally.retries, [&] { return narrow<S>(s[k], draws.slot(k)); }, compute);
  commit<Retry, T>(
      at, seen, tally.lost_updates, tally.retries, [&] { return narrow<T>(x, draws.param()); },
      compute);
}

}  // namespace asyncopt
