// A mutex that several processes share and that survives the death of its owner.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include "asyncopt/ledger.h"

namespace asyncopt {

// Thrown when a lock was not free within the deadline; its owner lives (a dead one's lock is taken
// over).
struct LockTimeout : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// getpid is a system call: a process makes it once, a forked child again.
std::uint32_t process_id();
// The inode of this process's PID namespace: lock owners are thread ids, which mean nothing in
// another one. Throws std::system_error without /proc.
std::uint64_t pid_namespace();

struct alignas(kCacheLine) RobustMutex {
  pthread_mutex_t mutex;
  std::atomic<std::uint32_t> owner;  // process id of the holder, for messages

  void create();
  // Waits at most `timeout_ns`; waits are counted in `tally`. True: the last owner died inside, and
  // what it protected may hold half of a push.
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
