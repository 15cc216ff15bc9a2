// Parallel loops over large tensors, on the threads of the OpenMP runtime that the process already
// uses. A separate thread pool would compete with it: after a backward pass torch's threads spin on
// the cores for milliseconds and can start new work at once. Waking a parked thread costs 30 us or
// more, half of a small push.
#pragma once

#include <cstddef>
#include <functional>

namespace asyncopt {

// Below this many elements a second thread saves less (5 us) than its wake-up may cost.
inline constexpr std::size_t kParallel = std::size_t{1} << 17;

// Calls work(0) ... work(count - 1), each once, on up to `threads` threads, the caller included,
// and returns when all have ended. Every thread takes one contiguous range, the same in every call,
// so that memory stays in the caches of the core that wrote it last. The caller does all work alone
// inside another parallel region, in a forked child (where OpenMP's threads do not exist) and in a
// process without OpenMP. After an exception of `work` no thread begins another call; the first one
// is rethrown to the caller when all threads have ended.
void parallel_for(std::size_t count, std::size_t threads,
                  const std::function<void(std::size_t)>& work);

// Declares that this process runs no parallel loops, so its forks miss no threads and may use
// OpenMP. Forks of those forks may not.
void expect_forks();

}  // namespace asyncopt
