// Detection of ended processes: by their threads and start time, not by their id alone.
#include "asyncopt/base/process.h"

#include <linux/sched.h>
#include <sys/syscall.h>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// A child that reports its identity and then calls `then`.
template <class Then>
struct Child {
  const Mapping memory{sizeof(std::atomic<std::uint64_t>)};
  std::atomic<std::uint64_t>& told = *static_cast<std::atomic<std::uint64_t>*>(memory.data());
  pid_t pid;
  ProcessId id;

  explicit Child(Then then)
      : pid(fork_child([&] {
          told.store(ProcessId::mine().bits());
          then();
        })) {
    const auto start = Clock::now();
    while (told.load() == 0) CHECK_LE(seconds_since(start), 60);
    id = ProcessId::from_bits(told.load());
  }
};

void sleep_forever() {
  for (;;) ::pause();
}

constexpr std::uint64_t kLong = 60'000'000'000;  // ns

void check_bits() {
  const ProcessId id((1u << 22) - 1, (std::uint64_t{1} << 42) - 1);
  CHECK_EQ(id.pid(), (1u << 22) - 1);
  CHECK_EQ(id.start(), (std::uint64_t{1} << 42) - 1);
  CHECK(ProcessId::from_bits(id.bits()) == id);
  CHECK(ProcessId::mine().pid() == static_cast<std::uint32_t>(getpid()));
  CHECK(ProcessId::mine() != ProcessId());
}

void check_a_killed_process() {
  const Child child(sleep_forever);
  CHECK_EQ(child.id.pid(), static_cast<std::uint32_t>(child.pid));
  CHECK(!is_gone(ProcessId::mine()));
  CHECK(!is_gone(child.id));
  CHECK(!wait_until_gone(child.id, 1'000'000));
  kill(child.pid, SIGSTOP);
  CHECK(WIFSTOPPED(wait_for(child.pid, 60, WUNTRACED)));
  CHECK(!is_gone(child.id));
  kill(child.pid, SIGKILL);
  CHECK(wait_until_gone(child.id, kLong));  // while its parent has not waited for it
  CHECK(WIFSIGNALED(wait_for(child.pid, 60)));
  CHECK(is_gone(child.id));
}

// A process whose first thread has ended is a zombie in /proc, and lives.
void check_a_thread_that_outlives_the_first() {
  const Child child([] {
    std::thread(sleep_forever).detach();
    syscall(SYS_exit, 0);
  });
  CHECK(!wait_until_gone(child.id, 50'000'000));
  kill(child.pid, SIGKILL);
  CHECK(wait_until_gone(child.id, kLong));
  CHECK(WIFSIGNALED(wait_for(child.pid, 60)));
}

// A slot of a store whose owner's id has gone to another process is free.
void check_slots_of_reused_ids() {
  const Store store("hogwild", 2, {{&kernel_of("sgd", "float32"), 1}});
  const Segment& s = store.segment;
  CHECK_EQ(s.claim_worker(), 0u);
  const Child child([&s] {
    CHECK_EQ(s.claim_worker(), 1u);
    sleep_forever();
  });
  const auto start = Clock::now();
  while (s.worker(1).owner.load() == 0) CHECK_LE(seconds_since(start), 60);
  CHECK_EQ(s.worker(1).owner.load(), child.id.bits());
  CHECK_THROWS(SegmentError, "workers: all 2 worker slots", s.claim_worker());
  // Its owner was a process that started before, with the id that the child has now.
  s.worker(1).owner.store(ProcessId(child.id.pid(), child.id.start() - 1).bits());
  CHECK_EQ(s.claim_worker(), 1u);
  s.release_worker(1);
  kill(child.pid, SIGKILL);
  wait_for(child.pid, 60);

  // The same with a process to which the kernel gives the dead one's id, where it lets us choose.
  const Child victim([&s] {
    CHECK_EQ(s.claim_worker(), 1u);
    sleep_forever();
  });
  while (s.worker(1).owner.load() != victim.id.bits()) CHECK_LE(seconds_since(start), 120);
  kill(victim.pid, SIGKILL);
  wait_for(victim.pid, 60);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // two ticks: another start
  pid_t wanted = victim.pid;
  clone_args how{};
  how.exit_signal = SIGCHLD;
  how.set_tid = reinterpret_cast<std::uintptr_t>(&wanted);
  how.set_tid_size = 1;
  const long reborn = syscall(SYS_clone3, &how, sizeof how);
  if (reborn == 0) sleep_forever();
  if (reborn < 0) {
    std::printf("no right to choose a process id: %s\n", std::strerror(errno));
    return;
  }
  CHECK_EQ(reborn, static_cast<long>(victim.pid));
  CHECK(is_gone(victim.id));
  CHECK_EQ(s.claim_worker(), 1u);
  kill(victim.pid, SIGKILL);
  CHECK(WIFSIGNALED(wait_for(victim.pid, 60)));
}

}  // namespace

int main() {
  set_deadline();
  check_bits();
  check_a_killed_process();
  check_a_thread_that_outlives_the_first();
  check_slots_of_reused_ids();
}
