// Several threads for one push over a large tensor: those of the OpenMP runtime that the process
// computes with already. A pool of our own would compete with it: after a backward pass torch's
// threads spin on the cores for a while (milliseconds), ready for the next piece of work, which may
// as well be ours (waking a parked thread instead costs 30 us and more, half of a small push).
#pragma once

#include <cstddef>
#include <functional>

namespace asyncopt {

// Below this many elements a second thread saves less (5 us) than it costs if it has to be woken.
inline constexpr std::size_t kParallel = std::size_t{1} << 17;

// Calls work(0) ... work(count - 1), each once, on up to `threads` threads of which the caller is
// one; returns when all have ended. Every thread takes one range of neighbours, the same in every
// call, so that memory stays in the caches of the core that wrote it last. The caller does all of
// it alone inside another parallel region, in a forked child (where OpenMP's threads are gone) and
// in a process without OpenMP. The first exception of `work` is rethrown to the caller when all
// threads have ended; after it no thread begins another call.
void parallel_for(std::size_t count, std::size_t threads,
                  const std::function<void(std::size_t)>& work);

// Says that this process computes nothing, so that its forks miss no thread; theirs may again.
void expect_forks();

}  // namespace asyncopt
