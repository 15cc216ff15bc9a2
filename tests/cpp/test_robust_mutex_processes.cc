// A waiter that is killed just as it is woken takes the wake-up with it; the others must not sleep
// beside a free lock until their deadline.
#include <fstream>

#include <sched.h>

#include "asyncopt/robust_mutex.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::uint64_t kDeadline = 20'000'000'000;  // ns

struct Shared {
  RobustMutex mutex;
  std::atomic<int> waiting;
};

// One CPU for the processes that inherit it.
void pin_to_one_cpu() {
  cpu_set_t allowed, one;
  CHECK_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &allowed)) ++cpu;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
}

// A child that waits for the lock, asleep when this returns. Others come before it on its CPU.
pid_t start_waiter(Shared& shared) {
  const int before = shared.waiting.load();
  const pid_t child = fork_child([&shared] {
    const sched_param none{};
    CHECK_EQ(sched_setscheduler(0, SCHED_IDLE, &none), 0);
    shared.waiting.fetch_add(1);
    Tally tally;
    shared.mutex.lock(kDeadline, tally);
    shared.mutex.unlock();
  });
  const auto start = Clock::now();
  for (char state = 0; shared.waiting.load() == before || state != 'S';) {
    CHECK_LE(seconds_since(start), 10);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string id, name;
    stat >> id >> name >> state;
  }
  return child;
}

void check_a_killed_waiter_does_not_strand_the_next() {
  const Mapping memory(sizeof(Shared));
  Shared& shared = *new (memory.data()) Shared{};
  shared.mutex.create();
  Tally tally;
  shared.mutex.lock(kDeadline, tally);
  const pid_t first = start_waiter(shared), second = start_waiter(shared);
  // Woken, the first waiter is behind us on the CPU. Before it gets there, the lock is taken again,
  // by somebody who sees no waiters; and it dies.
  shared.mutex.unlock();
  shared.mutex.lock(kDeadline, tally);
  kill(first, SIGKILL);
  CHECK(WIFSIGNALED(wait_for(first, 10)));
  shared.mutex.unlock();
  const auto start = Clock::now();
  CHECK_EQ(wait_for(second, 10), 0);
  CHECK_LE(seconds_since(start), 2);
  shared.mutex.lock(0, tally);  // free, and whole
  shared.mutex.unlock();
  CHECK_EQ(tally.repairs, 0u);
}

}  // namespace

int main() {
  set_deadline();
  pin_to_one_cpu();
  for (int i = 0; i < 5; ++i) check_a_killed_waiter_does_not_strand_the_next();
}
