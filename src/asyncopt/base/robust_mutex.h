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

// Thrown if a lock with a live owner was not released before the deadline. The lock of a dead owner
// is taken over instead.
struct LockTimeout : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct alignas(kCacheLine) RobustMutex {
  pthread_mutex_t mutex;
  // Bits of the holder's ProcessId; 0 while free. An owner that died while it held the lock stays
  // here until all of its threads are gone.
  std::atomic<std::uint64_t> owner;

  void create();
  // Waits at most `timeout_ns` and counts waits in `tally`. Returns true if the last owner died
  // while it held the lock: the protected data may hold part of a push, and no thread of that
  // process can write any more. Throws LockTimeout if the holder, or one of its threads, is alive.
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
