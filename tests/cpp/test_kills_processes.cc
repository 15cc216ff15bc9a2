// Workers are killed at random instants, with one thread and with several inside a push. The others
// go on, and at most the killed workers' last pushes are partial.
#include <algorithm>
#include <array>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "asyncopt/base/parallel.h"
#include "fleet.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// A worker dies at a random instant, another takes its place, again and again.
void check_kills(const SyncInfo& sync, bool audit, std::uint64_t kills, std::size_t threads,
                 std::size_t size) {
  constexpr std::size_t kProcesses = 3;
  const Fleet fleet("sgd_momentum", sync, audit, kProcesses, size, 20, threads);
  std::array<pid_t, kProcesses> children;
  for (pid_t& child : children) child = fleet.start_worker();

  std::mt19937 random(20240607);
  const auto until_progress = [&fleet](std::uint64_t more) {
    const std::uint64_t before = fleet.pushes();
    const auto start = Clock::now();
    while (fleet.pushes() < before + more) {
      CHECK_LE(seconds_since(start), 10);  // half the lock's deadline: nobody waits for the dead
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  };
  until_progress(kProcesses);
  std::vector<double> recoveries;  // s from the kill to the third push after it
  for (std::uint64_t k = 0; k < kills; ++k) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
    pid_t& victim = children[random() % kProcesses];
    const auto killed = Clock::now();
    kill(victim, SIGKILL);
    const int status = wait_for(victim, 10);
    if (!WIFSIGNALED(status)) fail(__FILE__, __LINE__, "a worker ended on its own");
    until_progress(3);  // the others', before there is a new one
    recoveries.push_back(seconds_since(killed));
    victim = fleet.start_worker();
  }
  until_progress(100);
  fleet.shared.stop.store(true);
  for (const pid_t child : children) CHECK_EQ(wait_for(child, 30), 0);

  CHECK_EQ(fleet.timeouts(), 0u);

  // A killed worker leaves at most its last push, in part or whole; no other push is touched.
  const auto done = static_cast<double>(fleet.pushes());
  const double begun = done + static_cast<double>(kills);
  const double steps = *fleet.store.scalars();
  CHECK_LE(done, steps);
  CHECK_LE(steps, begun);
  const auto version = static_cast<double>(fleet.store.version());
  CHECK_LE(done, version);
  CHECK_LE(version, begun);
  double state = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const double buffer = -fleet.store.slot<double>(0)[i], w = fleet.store.param<double>()[i];
    CHECK_LE(buffer, begun);
    state += buffer;
    if (sync.contract->may_lose) continue;
    CHECK_LE(done, buffer);
    // Parameter and state of an element part by at most the killed workers' updates.
    const double whole = buffer * (buffer + 1) / 2;
    CHECK_LE(std::abs(w - whole), static_cast<double>(kills) * begun);
    if (sync.contract->may_tear) continue;
    // An unfinished push of a killed worker is not visible.
    CHECK_EQ(w, whole);
    CHECK_EQ(version, steps);
    CHECK_EQ(buffer, steps);
  }
  if (audit)
    CHECK_LE(done * static_cast<double>(size),
             state + static_cast<double>(fleet.counted(&WorkerSlot::lost_state_updates)));
  std::sort(recoveries.begin(), recoveries.end());
  std::printf("%s, %zu threads: %llu kills, recovery p50 %.2f ms, p99 %.2f ms, worst %.2f ms\n",
              current_case.c_str(), threads, static_cast<unsigned long long>(kills),
              1e3 * recoveries[kills / 2], 1e3 * recoveries[kills * 99 / 100],
              1e3 * recoveries.back());

  // Each repair is one lock of a killed owner. Under striped every thread of a push holds its own.
  const std::uint64_t repairs = fleet.counted(&WorkerSlot::repairs);
  const std::string_view name = sync.name;
  CHECK_LE(repairs, kills * (name == "striped" ? threads : 1));
  if (!kSanitized && threads == 1 && (name == "mutex" || name == "seqlock")) CHECK_LE(1u, repairs);
  if (!sync.contract->may_block) CHECK_EQ(repairs, 0u);
}

void check_kills_of_one_thread(const SyncInfo& sync, bool audit) {
  // Long enough that a kill mostly falls into a push, and into a lock that is held.
  check_kills(sync, audit, often(250, 10), 1, 4000);
}

// Several threads of the killed worker are inside the push, and die one after the other.
void check_kills_of_several_threads(const SyncInfo& sync, bool audit) {
  check_kills(sync, audit, often(10, 2), 3, kParallel + 1000);
}

}  // namespace

int main() {
  set_deadline();  // the last guard against a hang
  expect_forks();  // the workers use threads
  for_each_variant(check_kills_of_several_threads);
  for_each_variant(check_kills_of_one_thread);
}
