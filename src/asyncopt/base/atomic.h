// Atomic accesses to words of plain memory, such as parameters and optimizer state, on the host and
// on GPUs. Members of shared structs are std::atomic instead. The memory order is in the name.
//
// On a GPU only the relaxed accesses of 4 and 8 bytes exist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "asyncopt/base/numbers.h"

namespace asyncopt {

// Declares to nvcc that `at` is in global memory; otherwise it emits atomics for any address space.
#ifdef __CUDA_ARCH__
#define ASYNCOPT_IN_GLOBAL_MEMORY(at) __builtin_assume(__isGlobal(at))
#else
#define ASYNCOPT_IN_GLOBAL_MEMORY(at)
#endif

template <class T>
ASYNCOPT_HD ASYNCOPT_INLINE T load_relaxed(const T* at) {
  ASYNCOPT_IN_GLOBAL_MEMORY(at);
#ifdef __CUDA_ARCH__
  return *static_cast<const volatile T*>(at);
#else
  return cast_bits<T>(__atomic_load_n(reinterpret_cast<const bits_t<T>*>(at), __ATOMIC_RELAXED));
#endif
}
template <class T>
ASYNCOPT_INLINE void store_relaxed(T* at, T value) {
  __atomic_store_n(reinterpret_cast<bits_t<T>*>(at), cast_bits<bits_t<T>>(value), __ATOMIC_RELAXED);
}
template <class T>
ASYNCOPT_INLINE T load_acquire(const T* at) {
  return cast_bits<T>(__atomic_load_n(reinterpret_cast<const bits_t<T>*>(at), __ATOMIC_ACQUIRE));
}
template <class T>
ASYNCOPT_INLINE void store_release(T* at, T value) {
  __atomic_store_n(reinterpret_cast<bits_t<T>*>(at), cast_bits<bits_t<T>>(value), __ATOMIC_RELEASE);
}

// Replaces `seen` by `next`. On failure `seen` holds the value found instead.
template <class Word>
ASYNCOPT_HD ASYNCOPT_INLINE bool compare_exchange_relaxed(Word* at, Word& seen, Word next) {
  ASYNCOPT_IN_GLOBAL_MEMORY(at);
#ifdef __CUDA_ARCH__
  Word found;
  if constexpr (sizeof(Word) == sizeof(unsigned long long))
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

// Adds, and returns the value before. No addition is lost.
template <class T>
ASYNCOPT_HD ASYNCOPT_INLINE T fetch_add_relaxed(T* at, T x) {
  ASYNCOPT_IN_GLOBAL_MEMORY(at);
#ifdef __CUDA_ARCH__
  return atomicAdd(at, x);
#else
  if constexpr (std::is_integral_v<T>) {
    return __atomic_fetch_add(at, x, __ATOMIC_RELAXED);
  } else {
    bits_t<T>* const bits = reinterpret_cast<bits_t<T>*>(at);
    bits_t<T> seen = load_relaxed(bits);
    while (!compare_exchange_relaxed(bits, seen, cast_bits<bits_t<T>>(cast_bits<T>(seen) + x))) {
    }
    return cast_bits<T>(seen);
  }
#endif
}
template <class Integer>
ASYNCOPT_INLINE Integer fetch_add_release(Integer* at, Integer x) {
  return __atomic_fetch_add(at, x, __ATOMIC_RELEASE);
}

// Copies memory that other threads may write meanwhile, in atomic words: each byte is read once.
inline void copy_out(const std::byte* from, void* to, std::size_t bytes) {
  auto* out = static_cast<std::byte*>(to);
  std::size_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const std::uint64_t word = load_relaxed(reinterpret_cast<const std::uint64_t*>(from + i));
    std::memcpy(out + i, &word, sizeof word);
  }
  for (; i < bytes; ++i) out[i] = load_relaxed(from + i);
}

// Copies into memory that other threads may read meanwhile, in atomic words.
inline void copy_in(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::size_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, from + i, sizeof word);
    store_relaxed(reinterpret_cast<std::uint64_t*>(to + i), word);
  }
  for (; i < bytes; ++i) store_relaxed(to + i, from[i]);
}

}  // namespace asyncopt
