// Memory sizes of the machine that layouts rely on, in bytes.
#pragma once

#include <cstddef>

namespace asyncopt {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kPage = 4096;

}  // namespace asyncopt
