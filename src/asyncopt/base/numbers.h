// Number formats: storage types of parameters and state, and rounding into them.
#pragma once

#include <cstddef>
#include <cstdint>

// Always inlined. Kernels are compiled once per instruction set; if a function that they share with
// other translation units were emitted there, the linker might keep the AVX-512 copy for every
// processor.
#define ASYNCOPT_INLINE __attribute__((always_inline)) inline
#ifdef __CUDACC__
#define ASYNCOPT_HD __host__ __device__
#else
#define ASYNCOPT_HD
#endif

namespace asyncopt {

// The upper half of a float32: same exponent, 8 bits of precision.
struct bfloat16 {
  std::uint16_t bits;
};

template <class T>
inline constexpr const char* dtype_name = nullptr;
template <>
inline constexpr const char* dtype_name<float> = "float32";
template <>
inline constexpr const char* dtype_name<double> = "float64";
template <>
inline constexpr const char* dtype_name<bfloat16> = "bfloat16";

// Storage -> arithmetic type. bfloat16 computes in float32, the others in themselves.
template <class T>
struct Arithmetic {
  using type = T;
};
template <>
struct Arithmetic<bfloat16> {
  using type = float;
};
template <class T>
using arithmetic_t = typename Arithmetic<T>::type;

// The unsigned integer with a value's bits, for compare-exchange.
template <std::size_t Bytes>
struct BitsOf;
template <>
struct BitsOf<1> {
  using type = std::uint8_t;
};
template <>
struct BitsOf<2> {
  using type = std::uint16_t;
};
template <>
struct BitsOf<4> {
  using type = std::uint32_t;
};
template <>
struct BitsOf<8> {
  using type = std::uint64_t;
};
template <class T>
using bits_t = typename BitsOf<sizeof(T)>::type;

// A function, because nvcc 13.0 rejects the builtin in larger templates.
template <class To, class From>
ASYNCOPT_HD ASYNCOPT_INLINE To cast_bits(From from) {
  return __builtin_bit_cast(To, from);
}

// Counter-based random numbers: element `index` of a push with a given seed has a place in a Weyl
// sequence, which mix() turns into 32 random bits. Lanes need no state, so loops vectorize; a loop
// adds kWeylStep to reach the next element's place.
inline constexpr std::uint32_t kWeylStep = 0x9E3779B1u, kWeylSeed = 0x85EBCA6Bu;
ASYNCOPT_HD ASYNCOPT_INLINE std::uint32_t weyl(std::uint32_t seed, std::uint32_t index) {
  return index * kWeylStep + seed * kWeylSeed;
}

// Xorshift, square, xorshift. x + (x * x | 5) is a permutation (Klimov and Shamir, CHES 2002), so
// each value occurs exactly once over all places. Correlations between elements equal those of two
// rounds of xorshift-multiply, at the cost of one multiplication.
ASYNCOPT_HD ASYNCOPT_INLINE std::uint32_t mix(std::uint32_t place) {
  std::uint32_t h = place ^ (place >> 11);
  h += h * h | 5u;
  return h ^ (h >> 16);
}

ASYNCOPT_HD ASYNCOPT_INLINE std::uint32_t noise(std::uint32_t seed, std::uint32_t index) {
  return mix(weyl(seed, index));
}

ASYNCOPT_HD ASYNCOPT_INLINE float widen(bfloat16 x) {
  return cast_bits<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
ASYNCOPT_HD ASYNCOPT_INLINE float widen(float x) { return x; }
ASYNCOPT_HD ASYNCOPT_INLINE double widen(double x) { return x; }

// Rounds into T. float32 and float64 are stored unchanged. bfloat16 rounds stochastically: up with
// a probability equal to the truncated fraction, so that updates below half a unit in the last
// place are right on average instead of vanishing. `random`: 16 uniform bits. Finite values beyond
// the largest bfloat16 become that one, never infinite. A NaN stays a NaN: arithmetic has set its
// quiet bit, which is in the upper half.
template <class T, class C>
ASYNCOPT_HD ASYNCOPT_INLINE T narrow(C x, std::uint32_t random) {
  if constexpr (sizeof(T) == sizeof(bfloat16)) {
    const std::uint32_t bits = cast_bits<std::uint32_t>(x);
    const bool is_below = (bits & 0x7FFFFFFFu) < 0x7F7F0000u;  // the largest bfloat16
    const std::uint32_t rounded = bits + (is_below ? random & 0xFFFFu : 0);
    return bfloat16{static_cast<std::uint16_t>(rounded >> 16)};
  } else {
    return x;
  }
}

// False for infinities and NaNs, the values with all exponent bits set.
template <class T>
ASYNCOPT_HD ASYNCOPT_INLINE bool is_finite(T x) {
  using Bits = bits_t<T>;
  constexpr Bits exponent = sizeof(T) == 8   ? static_cast<Bits>(0x7FF0000000000000u)
                            : sizeof(T) == 4 ? static_cast<Bits>(0x7F800000u)
                                             : static_cast<Bits>(0x7F80u);
  return (cast_bits<Bits>(x) & exponent) != exponent;
}

// Rounds into T to nearest, ties to even (IEEE 754).
template <class T, class C>
ASYNCOPT_HD ASYNCOPT_INLINE T nearest(C x) {
  if constexpr (sizeof(T) == sizeof(bfloat16)) {
    const std::uint32_t bits = cast_bits<std::uint32_t>(x);
    const std::uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
    const std::uint32_t safe = x == x ? rounded : 0x7FC00000u;  // a carry must not make NaN zero
    return bfloat16{static_cast<std::uint16_t>(safe >> 16)};
  } else {
    return x;
  }
}

}  // namespace asyncopt
