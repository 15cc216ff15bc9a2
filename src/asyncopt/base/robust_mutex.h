// A mutex that several processes share and that survives the death of its owner.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include "asyncopt/base/counters.h"
#include "asyncopt/base/memory.h"
#include "asyncopt/base/process.h"

namespace asyncopt {

// Thrown when a lock was not free within the deadline, because its owner is alive. The lock of a
// dead owner is taken over.
struct LockTimeout : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct alignas(kCacheLine) RobustMutex {
  pthread_mutex_t mutex;
  // Bits of the holder's ProcessId; 0 while free. An owner that died inside stays here until its
  // successor has seen all of its threads gone.
  std::atomic<std::uint64_t> owner;

  void create();
  // Waits at most `timeout_ns`; waits are counted in `tally`. True: the last owner died inside, and
  // what it protected may hold half of a push. By then no thread of the owner's process can write
  // any more. Throws LockTimeout: the holder, or one of its threads, is alive.
  bool lock(std::uint64_t timeout_ns, Tally& tally);
  void unlock();
};
static_assert(sizeof(RobustMutex) == kCacheLine, "one lock per cache line");

class RobustLock {
 public:
  RobustLock(RobustMutex& mutex, std::uint64_t timeout_ns, Tally& tally)
      : mutex_(mutex), repaired_(mutex.lock(timeout_ns, tally)) {}
  ~RobustLock() { mutex_.unlock(); }
  RobustLock(const RobustLock&) = delete;
  RobustLock& operator=(const RobustLock&) = delete;
  bool repaired() const { return repaired_; }

 private:
  RobustMutex& mutex_;
  bool repaired_;
};

}  // namespace asyncopt
