// Processes on one store: increments add up, and workers die or are stopped with locks held.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "fleet.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

void check_increments(const SyncInfo& sync, bool audit) {
  constexpr std::size_t kProcesses = 3, kSize = 37;
  constexpr std::uint64_t kPushes = count(2000, 200), total = kProcesses * kPushes;
  const Fleet fleet("sgd", sync, audit, kProcesses, kSize);
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < kProcesses; ++i) children.push_back(fleet.start_worker(kPushes));
  for (const pid_t child : children) CHECK_EQ(wait_for(child, 60), 0);
  CHECK_EQ(fleet.store.version(), total);
  CHECK_EQ(fleet.counted(&WorkerSlot::pushes), total);
  double sum = 0;
  for (std::size_t i = 0; i < kSize; ++i) {
    const double w = fleet.store.param<double>()[i];
    CHECK_LE(w, static_cast<double>(total));
    if (!sync.contract->may_lose) CHECK_EQ(w, static_cast<double>(total));
    sum += w;
  }
  if (audit)
    CHECK_EQ(sum + static_cast<double>(fleet.counted(&WorkerSlot::lost_updates)),
             static_cast<double>(kSize * total));
}

// The lock that a push of this sync takes, and its state after a worker stops or dies inside.
bool hold_lock(const Segment& segment, const SyncInfo& sync) {
  Header& h = segment.header();
  Tally tally;
  if (!sync.contract->may_block) return false;
  RobustMutex& mutex = sync.striped ? segment.stripe(1) : h.mutex;
  mutex.lock(segment.timeout_ns(), tally);
  if (std::string_view(sync.name) == "seqlock") h.sequence.fetch_add(1);
  if (std::string_view(sync.name) == "leashed") h.turn.store(1);
  return true;
}
void free_lock(const Segment& segment, const SyncInfo& sync) {
  Header& h = segment.header();
  if (std::string_view(sync.name) == "seqlock") h.sequence.fetch_add(1);
  if (std::string_view(sync.name) == "leashed") h.turn.store(0);
  (sync.striped ? segment.stripe(1) : h.mutex).unlock();
}

// Two stripes of float64, one worker, and a lock timeout of a fifth of a second.
struct Held {
  static constexpr double kTimeout = 0.2;
  static constexpr std::size_t kSize = 16;
  const Kernel& kernel = kernel_of("sgd", "float64");
  const Store store;
  std::vector<double> ones = std::vector<double>(kSize, 1.0), replica = ones;
  Block block;
  Group group = group_of(kernel, {{"lr", 1}, {"maximize", 1}});
  Unfinished unfinished;

  explicit Held(const SyncInfo& sync) : store(sync.name, 2, {{&kernel, kSize}}, kTimeout) {
    block = store.blocks[0];
    block.grad = ones.data();
    group.blocks = {&block, 1};
  }
  void push_once() { push(store.segment, 0, {.groups = {&group, 1}, .unfinished = &unfinished}); }
  void pull_once() {
    const PullBlock one{block.param, replica.data(), kSize * sizeof(double)};
    pull(store.segment, 0, {&one, 1});
  }
};

// A worker dies holding the lock: the next one takes it over at once, and counts that.
void check_takes_over_from_the_dead(const SyncInfo& sync) {
  for (const bool by_pull : {false, true}) {
    Held held(sync);
    if (by_pull && (sync.striped || std::string_view(sync.name) == "leashed")) continue;
    const pid_t child = fork_child([&] {
      if (hold_lock(held.store.segment, sync)) raise(SIGKILL);
    });
    const int status = wait_for(child, 10);
    if (!WIFSIGNALED(status)) {
      CHECK(!sync.contract->may_block);
      return;
    }
    if (by_pull)
      held.pull_once();
    else
      held.push_once();
    CHECK_EQ(held.store.segment.worker(0).repairs.load_relaxed(), 1u);
    const Header& h = held.store.segment.header();
    CHECK_EQ(h.sequence.load() % 2, 0u);  // or readers would wait for a writer that is not there
    CHECK_EQ(h.turn.load(), 0u);
    for (int i = 0; i < 10; ++i) {
      held.push_once();
      held.pull_once();
    }
    const double pushes = by_pull ? 10 : 11;
    for (std::size_t i = 0; i < Held::kSize; ++i) {
      CHECK_EQ(held.store.param<double>()[i], pushes);
      CHECK_EQ(held.replica[i], pushes);
    }
    CHECK_EQ(held.store.segment.worker(0).repairs.load_relaxed(), 1u);
  }
}

// A worker is stopped holding the lock: the others get an error that names it, in time, and the
// lock stays its own; when it continues, nothing has changed.
void check_waits_for_the_stopped(const SyncInfo& sync) {
  Held held(sync);
  const pid_t child = fork_child([&] {
    if (!hold_lock(held.store.segment, sync)) return;
    raise(SIGSTOP);
    free_lock(held.store.segment, sync);
  });
  if (!WIFSTOPPED(wait_for(child, 10, WUNTRACED))) {
    CHECK(!sync.contract->may_block);
    return;
  }
  const std::string owner = "held by process " + std::to_string(child);
  const bool pull_waits = !sync.striped && std::string_view(sync.name) != "leashed";
  // On a busy machine this process may be woken late, but not each time.
  unsigned waits = 0;
  const auto times_out = [&](auto wait) {
    double best = 1e9;
    for (int i = 0; i < 3 || (best > Held::kTimeout + 0.1 && i < 100); ++i, ++waits) {
      const auto start = Clock::now();
      CHECK_THROWS(LockTimeout, owner, wait());
      best = std::min(best, seconds_since(start));
    }
    CHECK_LE(Held::kTimeout, best);
    CHECK_LE(best, Held::kTimeout + 0.1);
  };
  times_out([&] { held.push_once(); });
  if (pull_waits) times_out([&] { held.pull_once(); });
  if (!pull_waits) held.pull_once();
  const WorkerSlot& slot = held.store.segment.worker(0);
  CHECK_EQ(slot.lock_waits.load_relaxed(), waits);
  CHECK_LE(static_cast<std::uint64_t>(3 * Held::kTimeout * 1e9), slot.lock_wait_ns.load_relaxed());
  CHECK_EQ(slot.repairs.load_relaxed(), 0u);
  CHECK_EQ(slot.pushes.load_relaxed(), 0u);
  CHECK_EQ(slot.unfinished.load_relaxed(), sync.striped ? 1u : 0u);
  CHECK_EQ(held.store.version(), 0u);
  CHECK_EQ(slot.reading.load() + slot.building.load(), 0u);

  kill(child, SIGCONT);
  CHECK_EQ(wait_for(child, 10), 0);
  held.push_once();
  CHECK_EQ(slot.repairs.load_relaxed(), 0u);
  CHECK_EQ(slot.unfinished.load_relaxed(), 0u);
  CHECK_EQ(held.store.version(), 1u);
  // The stripe that was free took its part of the push once, however often it was tried.
  for (std::size_t i = 0; i < Held::kSize; ++i) CHECK_EQ(held.store.param<double>()[i], 1);
}

// A worker is stopped at random instants: the other one continues or gets a LockTimeout, and
// nothing is lost.
void check_random_stops(const SyncInfo& sync) {
  constexpr std::size_t kSize = 2000;
  const Fleet fleet("sgd", sync, false, 2, kSize, 0.005);
  const pid_t child = fleet.start_worker();
  const auto start = Clock::now();
  while (fleet.pushes() == 0) CHECK_LE(seconds_since(start), 10);

  std::mt19937 random(7);
  bool stopped = false;
  int turns = 0;
  fleet.work(~std::uint64_t{0}, [&] {
    if (++turns % 3 != 0) return;
    kill(child, stopped ? SIGCONT : SIGSTOP);
    stopped = !stopped;
    if (stopped)
      CHECK(WIFSTOPPED(wait_for(child, 10, WUNTRACED)));
    else
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
    if (turns >= count(240, 60) && !stopped) fleet.shared.stop.store(true);
  });
  CHECK_EQ(wait_for(child, 30), 0);
  CHECK_EQ(fleet.counted(&WorkerSlot::repairs), 0u);
  if (!sync.contract->may_block) CHECK_EQ(fleet.timeouts(), 0u);
  const auto done = static_cast<double>(fleet.pushes());
  for (std::size_t i = 0; i < kSize; ++i) {
    const double w = fleet.store.param<double>()[i];
    if (!sync.contract->may_lose) CHECK_LE(done, w);
    // Only a push that has some stripes, times out at the next one and is not tried again.
    CHECK_LE(w, done + static_cast<double>(fleet.counted(&WorkerSlot::unfinished)));
  }
}

}  // namespace

int main() {
  set_deadline();  // the last guard against a hang
  expect_forks();  // the workers use threads
  for_each_variant(check_increments);
  for_each_sync(check_takes_over_from_the_dead);
  for_each_sync(check_waits_for_the_stopped);
  for_each_sync(check_random_stops);
}
