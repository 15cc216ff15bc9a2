// Random bits for the rounding of one element, identical in every loop, on the host and on GPUs.
#pragma once

#include "asyncopt/base/numbers.h"

namespace asyncopt {

// 16 random bits for each stochastically rounded value of an element: its K slots, then its
// parameter. Two values share one draw of 32 bits.
template <std::size_t K, class T, class S>
struct Draws {
  static constexpr std::size_t slots = sizeof(S) == sizeof(bfloat16) ? K : 0;
  static constexpr std::size_t values = slots + (sizeof(T) == sizeof(bfloat16) ? 1 : 0);
  std::uint32_t words[K / 2 + 1];  // zero for values that are not rounded stochastically

  // `place`: the element's place in the Weyl sequence.
  ASYNCOPT_HD ASYNCOPT_INLINE explicit Draws(std::uint32_t place) : words{} {
    for (std::size_t word = 0; 2 * word < values; ++word)
      words[word] = mix(place + static_cast<std::uint32_t>(word) * kWeylSeed);
  }
  ASYNCOPT_HD ASYNCOPT_INLINE std::uint32_t slot(std::size_t k) const {
    return k % 2 == 0 ? words[k / 2] : words[k / 2] >> 16;
  }
  ASYNCOPT_HD ASYNCOPT_INLINE std::uint32_t param() const { return slot(slots); }
};

}  // namespace asyncopt
