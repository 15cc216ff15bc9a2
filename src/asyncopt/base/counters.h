// Counters of one push or pull, and counters that a worker publishes.
#pragma once

#include <atomic>
#include <cstdint>

namespace asyncopt {

// Counts of one push or pull. Each helping thread has its own; they are summed at the end.
struct Tally {
  std::uint64_t retries = 0;             // recomputations after a failed compare-exchange
  std::uint64_t lost_updates = 0;        // element updates of parameters dropped (audit)
  std::uint64_t lost_state_updates = 0;  // element updates of state slots dropped (audit)
  std::uint64_t lock_waits = 0;
  std::uint64_t lock_wait_ns = 0;
  std::uint64_t repairs = 0;  // locks taken over from an owner that died while it held them

  void add(const Tally& other) {
    retries += other.retries;
    lost_updates += other.lost_updates;
    lost_state_updates += other.lost_state_updates;
    lock_waits += other.lock_waits;
    lock_wait_ns += other.lock_wait_ns;
    repairs += other.repairs;
  }
};

// A counter with one writer and any number of readers: a plain increment on an atomic word.
class Counter {
 public:
  void add(std::uint64_t n) {
    if (n != 0) value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  std::uint64_t load_relaxed() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace asyncopt
