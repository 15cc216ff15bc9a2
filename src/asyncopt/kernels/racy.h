// Plain accesses that race on purpose: vectorized loads and stores of memory that other workers
// write at the same time.
//
// This is undefined behavior in the C++ standard. It relies on two guarantees of the supported
// compilers and processors: an aligned 2-, 4- or 8-byte element is read and written whole, and
// nothing is read twice. The ThreadSanitizer build uses relaxed atomic accesses instead, so that it
// checks everything else; the arithmetic is the same.
#pragma once

#include "asyncopt/base/atomic.h"

namespace asyncopt::ASYNCOPT_ISA {

template <class T>
ASYNCOPT_INLINE auto racy_load(const T* p) {
#ifdef ASYNCOPT_TSAN
  return widen(load_relaxed(p));
#else
  return widen(*p);
#endif
}

template <class T, class C>
ASYNCOPT_INLINE void racy_store(T* p, C x, std::uint32_t random) {
  const T value = narrow<T>(x, random);
#ifdef ASYNCOPT_TSAN
  store_relaxed(p, value);
#else
  if constexpr (sizeof(T) == sizeof(bfloat16))
    p->bits = value.bits;  // a struct assignment would keep the loop from being vectorized
  else
    *p = value;
#endif
}

}  // namespace asyncopt::ASYNCOPT_ISA
