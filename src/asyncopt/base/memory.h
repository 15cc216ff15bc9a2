// Sizes of the machine's memory that layouts rely on.
#pragma once

#include <cstddef>

namespace asyncopt {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kPage = 4096;

}  // namespace asyncopt
