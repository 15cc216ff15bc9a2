// Cross-process waiting: spin briefly, then futex-wait in slices of 50 ms. The slices are needed
// because a wake-up is lost if the process that received it is killed before it runs.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace asyncopt {

inline constexpr std::uint64_t kSliceNs = 50'000'000;

// The machine's monotonic clock, Python's time.monotonic_ns.
std::uint64_t now_ns();

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Sleeps while `word` is `seen`, at most `ns`; may return earlier.
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t seen, std::uint64_t ns);
void futex_wake_all(std::atomic<std::uint32_t>& word);

// Waits until ready() returns true; returns false after `timeout_ns`. Code that makes ready() true
// must then change `word` and wake its sleepers.
template <class Ready>
bool wait_until(const std::atomic<std::uint32_t>& word, std::uint64_t timeout_ns, Ready ready) {
  constexpr int kSpins = 200;  // a few microseconds, the cost of a system call and a context switch
  const std::uint64_t end = now_ns() + timeout_ns;
  for (;;) {
    const std::uint32_t seen = word.load(std::memory_order_acquire);
    if (ready()) return true;
    const std::uint64_t now = now_ns();
    if (now >= end) return false;
    for (int i = 0; i < kSpins && word.load(std::memory_order_relaxed) == seen; ++i) pause();
    futex_wait(word, seen, std::min(kSliceNs, end - now));
  }
}

}  // namespace asyncopt
