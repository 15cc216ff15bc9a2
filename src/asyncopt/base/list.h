// A list of types, from which tables and dispatch are generated.
#pragma once

#include <cstddef>

namespace asyncopt {

template <class... Ts>
struct List {
  static constexpr std::size_t size = sizeof...(Ts);
};

}  // namespace asyncopt
