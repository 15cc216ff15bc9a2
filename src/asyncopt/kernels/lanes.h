// Vectors of sixteen floats on every instruction set (one register, two or four), so that all give
// the same bits. Loops use them explicitly because gcc 12 vectorizes loops of plain gathers across
// rows and spills hundreds of registers.
#pragma once

#include <cstddef>

namespace asyncopt {
inline constexpr std::size_t kLanes = 16;
}

#ifdef ASYNCOPT_ISA  // in kernels

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstring>

#include "asyncopt/kernels/racy.h"

namespace asyncopt::ASYNCOPT_ISA {

using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using Mask = std::int32_t __attribute__((vector_size(kLanes * sizeof(float))));

ASYNCOPT_INLINE void load(Lanes& to, const float* from) { std::memcpy(&to, from, sizeof to); }

// Loads and stores of memory that other workers write at the same time (racy.h).
ASYNCOPT_INLINE void racy_load(Lanes& to, const float* from) {
#ifdef ASYNCOPT_TSAN
  for (std::size_t l = 0; l < kLanes; ++l) to[l] = racy_load(from + l);
#else
  load(to, from);
#endif
}
ASYNCOPT_INLINE void racy_store(const Lanes& from, float* to) {
#ifdef ASYNCOPT_TSAN
  for (std::size_t l = 0; l < kLanes; ++l) racy_store(to + l, from[l], 0);
#else
  std::memcpy(to, &from, sizeof from);
#endif
}

// For loops over entries that name rows of whole vectors.
inline constexpr std::size_t kAhead = 8;  // prefetch distance, in entries
ASYNCOPT_INLINE void prefetch_row(const float* row, std::size_t stride) {
  for (std::size_t l = 0; l < stride; l += kLanes) __builtin_prefetch(row + l, 1);
}

// AVX2's gather is not used: on processors without AVX-512 it is slower than sixteen loads
// (measured with AVX2 on Zen 5: 0.75 of their speed).
ASYNCOPT_INLINE void gather(Lanes& to, const float* from, const std::int32_t* columns) {
#if defined(__AVX512F__)
  const __m512 found = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xFFFF,
                                                _mm512_loadu_si512(columns), from, sizeof(float));
  std::memcpy(&to, &found, sizeof to);
#else
  const auto at = [&](std::size_t l)
                      __attribute__((always_inline)) { return racy_load(from + columns[l]); };
  to = Lanes{at(0), at(1), at(2),  at(3),  at(4),  at(5),  at(6),  at(7),
             at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15)};
#endif
}

// Stores the first n lanes.
ASYNCOPT_INLINE void scatter(const Lanes& from, float* to, const std::int32_t* columns,
                             std::size_t n) {
  float values[kLanes];
  std::memcpy(values, &from, sizeof values);
  if (n >= kLanes) {
#pragma GCC unroll 16
    for (std::size_t l = 0; l < kLanes; ++l) racy_store(to + columns[l], values[l], 0);
  } else {
#pragma GCC unroll 1
    for (std::size_t l = 0; l < n; ++l) racy_store(to + columns[l], values[l], 0);
  }
}

// Sets all bits of the first n lanes and clears the others.
ASYNCOPT_INLINE void first(Mask& to, std::size_t n) {
  constexpr Mask lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  to = lane < static_cast<std::int32_t>(n);
}

ASYNCOPT_INLINE void root(Lanes& x) {
  float values[kLanes];
  std::memcpy(values, &x, sizeof values);
  for (std::size_t l = 0; l < kLanes; ++l) values[l] = __builtin_sqrtf(values[l]);
  std::memcpy(&x, values, sizeof x);
}
ASYNCOPT_INLINE void root(float& x) { x = __builtin_sqrtf(x); }

ASYNCOPT_INLINE float sum(const Lanes& lanes) {
  float parts[kLanes];
  std::memcpy(parts, &lanes, sizeof parts);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2)
    for (std::size_t l = 0; l < half; ++l) parts[l] += parts[l + half];
  return parts[0];
}

// Changes one element by compare-exchange, so that no update is lost. Returns the new value.
template <class Change>
ASYNCOPT_INLINE float exchange(float* at, Change change) {
  auto* const bits = reinterpret_cast<bits_t<float>*>(at);
  bits_t<float> seen = load_relaxed(bits);
  for (;;) {
    float value = cast_bits<float>(seen);
    change(value);
    if (compare_exchange_relaxed(bits, seen, cast_bits<bits_t<float>>(value))) return value;
  }
}

}  // namespace asyncopt::ASYNCOPT_ISA

#endif
