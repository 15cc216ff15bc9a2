// The robust lock between processes: wake-ups that are lost, and owners that die thread by thread.
#include <fstream>

#include <linux/futex.h>
#include <sys/syscall.h>

#include "asyncopt/base/robust_mutex.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::uint64_t kDeadline = 3'600'000'000'000;  // ns; longer than the test may take

struct Shared {
  RobustMutex mutex;
  std::atomic<int> waiting;
};

// A child that calls wait(), which sleeps; asleep when this returns.
template <class Wait>
pid_t start_waiter(Shared& shared, Wait wait) {
  const int before = shared.waiting.load();
  const pid_t child = fork_child([&] {
    ProcessId::mine();  // reads files, which may sleep
    shared.waiting.fetch_add(1);
    wait();
  });
  const auto start = Clock::now();
  for (char state = 0; shared.waiting.load() == before || state != 'S';) {
    CHECK_LE(seconds_since(start), 60);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string id, name;
    stat >> id >> name >> state;
  }
  return child;
}

// If a waiter is killed just after it was woken, the wake-up is lost; the others must not sleep
// beside a free lock until their deadline. The first waiter here is one that is always too late:
// it sleeps as pthread_mutex_clocklock does, for the same word, and does nothing once it is woken.
void check_a_lost_wake_up_does_not_strand_the_next() {
  const Mapping memory(sizeof(Shared));
  Shared& shared = *new (memory.data()) Shared{};
  shared.mutex.create();
  Tally tally;
  shared.mutex.lock(kDeadline, tally);
  const pid_t first = start_waiter(shared, [&shared] {
    auto& word = *reinterpret_cast<std::atomic<std::uint32_t>*>(&shared.mutex.mutex);
    const std::uint32_t seen = word.fetch_or(FUTEX_WAITERS) | FUTEX_WAITERS;
    futex_wait(word, seen, kDeadline);
  });
  const pid_t second = start_waiter(shared, [&shared] {
    Tally mine;
    shared.mutex.lock(kDeadline, mine);
    shared.mutex.unlock();
  });
  shared.mutex.unlock();  // wakes the first
  CHECK_EQ(wait_for(first, 60), 0);
  CHECK_EQ(wait_for(second, 60), 0);
  shared.mutex.lock(0, tally);  // free, and whole
  shared.mutex.unlock();
  CHECK_EQ(tally.repairs, 0u);
}

// A holder that was stopped just after it got the lock, or before it gave it back, is named too.
void check_a_holder_at_the_edge_is_named() {
  const Mapping memory(sizeof(Shared));
  Shared& shared = *new (memory.data()) Shared{};
  shared.mutex.create();
  const pid_t holder = start_waiter(shared, [&shared] {
    std::thread([&shared] {
      pthread_mutex_lock(&shared.mutex.mutex);  // and has not written `owner` yet
      ::pause();
    }).join();
  });
  Tally tally;
  const auto start = Clock::now();
  const auto& word = reinterpret_cast<std::atomic<std::uint32_t>&>(shared.mutex.mutex);
  while (word.load() == 0) CHECK_LE(seconds_since(start), 60);
  CHECK_THROWS(LockTimeout, "held by process " + std::to_string(holder) + "; resume or end",
               shared.mutex.lock(1'000'000, tally));
  kill(holder, SIGKILL);
  CHECK(WIFSIGNALED(wait_for(holder, 60)));
}

// The kernel frees a lock as soon as the thread that held it is dead. While other threads of that
// process may still write what it protects, nobody gets it.
void check_waits_for_all_threads_of_the_dead() {
  const Mapping memory(sizeof(Shared));
  Shared& shared = *new (memory.data()) Shared{};
  shared.mutex.create();
  const pid_t child = fork_child([&shared] {
    std::thread([&shared] {
      Tally tally;
      shared.mutex.lock(kDeadline, tally);
      syscall(SYS_exit, 0);  // of this thread alone
    }).detach();
    for (;;) ::pause();  // a sibling
  });
  const std::string of = "process " + std::to_string(child);
  Tally tally;
  const auto start = Clock::now();
  while (shared.mutex.owner.load() == 0) CHECK_LE(seconds_since(start), 60);
  for (int i = 0; i < 3; ++i)  // the kernel reports the death only to the first
    CHECK_THROWS(LockTimeout, of, shared.mutex.lock(20'000'000, tally));
  CHECK_EQ(tally.repairs, 0u);
  kill(child, SIGKILL);
  CHECK(shared.mutex.lock(kDeadline, tally));  // a repair, before anybody waits for the child
  CHECK_EQ(tally.repairs, 1u);
  shared.mutex.unlock();
  CHECK(WIFSIGNALED(wait_for(child, 60)));
  CHECK(!shared.mutex.lock(0, tally));
  shared.mutex.unlock();
}

}  // namespace

int main() {
  set_deadline();
  for (int i = 0; i < 5; ++i) {
    check_a_lost_wake_up_does_not_strand_the_next();
    check_a_holder_at_the_edge_is_named();
    check_waits_for_all_threads_of_the_dead();
  }
}
