#include "asyncopt/base/robust_mutex.h"

#include <linux/futex.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <string>
#include <system_error>

#include "asyncopt/base/wait.h"

#ifdef ASYNCOPT_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace asyncopt {
namespace {

// pthread_mutex_clocklock, annotated by hand because gcc 12's ThreadSanitizer does not intercept
// it.
int clock_lock(pthread_mutex_t& mutex, const timespec& deadline) {
#ifdef ASYNCOPT_TSAN
  __tsan_mutex_pre_lock(&mutex, __tsan_mutex_try_lock);
#endif
  const int error = pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &deadline);
#ifdef ASYNCOPT_TSAN
  const bool locked = error == 0 || error == EOWNERDEAD;
  __tsan_mutex_post_lock(&mutex,
                         __tsan_mutex_try_lock | (locked ? 0 : __tsan_mutex_try_lock_failed), 0);
#endif
  return error;
}

// Waits in slices: if a waiter is killed just as it is woken, its wake-up is lost, and the next
// waiter would otherwise sleep to its deadline although the lock is free.
int lock_until(pthread_mutex_t& mutex, std::uint64_t timeout_ns) {
  const std::uint64_t end = now_ns() + timeout_ns;
  for (;;) {
    const std::uint64_t until = std::min(end, now_ns() + kSliceNs);
    const int error = clock_lock(mutex, {static_cast<time_t>(until / 1'000'000'000u),
                                         static_cast<long>(until % 1'000'000'000u)});
    if (error != ETIMEDOUT || until == end) return error;
  }
}

// The process whose thread holds the mutex: the kernel's robust futexes keep the thread id in the
// lock word, the first word of glibc's mutex. 0: the mutex is free now.
std::uint32_t holder_of(pthread_mutex_t& mutex) {
  const auto& word = reinterpret_cast<const std::atomic<std::uint32_t>&>(mutex);
  const std::uint32_t thread = word.load(std::memory_order_relaxed) & FUTEX_TID_MASK;
  return thread == 0 ? 0 : process_of_thread(thread);
}

void check(int error, const char* what) {
  if (error != 0) throw std::system_error(error, std::generic_category(), what);
}

}  // namespace

void RobustMutex::create() {
  pthread_mutexattr_t attributes;
  check(pthread_mutexattr_init(&attributes), "pthread_mutexattr_init");
  check(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED),
        "a process-shared mutex");
  check(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST), "a robust mutex");
  check(pthread_mutex_init(&mutex, &attributes), "pthread_mutex_init");
  pthread_mutexattr_destroy(&attributes);
  owner.store(0, std::memory_order_relaxed);
}

bool RobustMutex::lock(std::uint64_t timeout_ns, Tally& tally) {
  const auto time_out = [&](const std::string& cause) {
    throw LockTimeout("lock: not free within " +
                      std::to_string(static_cast<double>(timeout_ns) * 1e-9) + " s, " + cause +
                      "raise lock_timeout");
  };
  constexpr const char* kEnd = "; resume or end that process, or ";
  int error = pthread_mutex_trylock(&mutex);
  if (error == EBUSY) {
    const std::uint64_t start = now_ns();
    error = lock_until(mutex, timeout_ns);
    ++tally.lock_waits;
    tally.lock_wait_ns += now_ns() - start;
  }
  const ProcessId before = ProcessId::from_bits(owner.load(std::memory_order_relaxed));
  if (error == ETIMEDOUT) {
    // `owner` does not name a holder that was stopped right after locking or right before
    // unlocking.
    const std::uint32_t holder = before == ProcessId() ? holder_of(mutex) : before.pid();
    time_out(holder == 0 ? "held by others in turn; "
                         : "held by process " + std::to_string(holder) + kEnd);
  }
  const bool owner_died = error == EOWNERDEAD;
  check(owner_died ? pthread_mutex_consistent(&mutex) : error, "a shared lock cannot be taken");
  // EOWNERDEAD proves only that the thread that held the lock is dead. `owner` stays set until the
  // other threads of its process are dead too, so that the next caller, which gets no EOWNERDEAD,
  // also waits.
  if (before != ProcessId() && before != ProcessId::mine() &&
      !wait_until_gone(before, timeout_ns)) {
    pthread_mutex_unlock(&mutex);
    time_out("held by a dead thread of the running process " + std::to_string(before.pid()) + kEnd);
  }
  const bool repaired = owner_died || before != ProcessId();
  if (repaired) ++tally.repairs;
  owner.store(ProcessId::mine().bits(), std::memory_order_relaxed);
  return repaired;
}

void RobustMutex::unlock() {
  owner.store(0, std::memory_order_relaxed);
  pthread_mutex_unlock(&mutex);
}

}  // namespace asyncopt
