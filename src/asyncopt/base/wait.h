// Waiting for what another process does: a short spin, then sleep in slices. A process that is
// killed just as it is woken takes the wake-up with it, so nobody sleeps for long on one promise.
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

// True as soon as ready() is; false after `timeout_ns`. Whoever makes ready() come true changes
// `word` afterwards and wakes its sleepers.
template <class Ready>
bool wait_until(const std::atomic<std::uint32_t>& word, std::uint64_t timeout_ns, Ready ready) {
  constexpr int kSpins = 200;  // some microseconds: a system call and a switch cost as much
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
