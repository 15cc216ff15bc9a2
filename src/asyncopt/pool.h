// Threads that help one push over a large tensor. Started at the first push that needs them, parked
// between pushes, gone in a forked child (where the next push starts new ones).
#pragma once

#include <cstddef>
#include <functional>

namespace asyncopt {

// Calls work(0) ... work(count - 1), each once, on up to `threads` threads of which the caller is
// one; returns when all have ended. If the helpers are busy with another caller's push, the caller
// does all of it alone. `work` must not throw.
void parallel_for(std::size_t count, std::size_t threads,
                  const std::function<void(std::size_t)>& work);

}  // namespace asyncopt
