// Processes on one store: increments add up, workers are killed at any instant and stopped with
// locks held, and the others go on.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "asyncopt/parallel.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// Beside the store: what each worker knows for certain that it has done.
struct alignas(kCacheLine) Progress {
  std::atomic<std::uint64_t> pushes, timeouts;
};

struct Shared {
  Progress progress[8];
  std::atomic<bool> stop;
};

// Worker processes that push all-ones gradients to one float64 tensor. SGD then counts the pushes
// in each element; with momentum 1 the buffer counts them, and the parameter is 1 + 2 + 3 + ...
struct Fleet {
  const Kernel& kernel;
  const SyncInfo& sync;
  const bool audit;
  const std::size_t workers;
  const std::size_t threads;  // in a push
  const Store store;
  const Mapping memory{sizeof(Shared)};
  Shared& shared = *static_cast<Shared*>(memory.data());

  Fleet(const char* rule, const SyncInfo& s, bool count_losses, std::size_t n, std::size_t size,
        double lock_timeout = 20, std::size_t threads_each = 1)
      : kernel(kernel_of(rule, "float64")),
        sync(s),
        audit(count_losses),
        workers(n),
        threads(threads_each),
        store(s.name, n, {{&kernel, size}}, lock_timeout) {}

  // Pushes until told to stop, or `most` times; a replica's worker pulls what it has pushed.
  template <class AfterEach>
  void work(std::uint64_t most, AfterEach after_each) const {
    const Segment segment = Segment::attach(store.memory.data(), store.memory.size());
    const std::size_t worker = segment.claim_worker();
    const std::vector<double> ones(store.blocks[0].n, 1.0);
    std::vector<double> replica(ones.size());
    Block block = store.blocks[0];
    block.grad = ones.data();
    Group group = group_of(kernel, {{"lr", 1}, {"momentum", 1}, {"maximize", 1}});
    group.blocks = {&block, 1};
    Progress& mine = shared.progress[worker];
    Unfinished unfinished;
    for (std::uint64_t i = 0; i < most && !shared.stop.load(std::memory_order_relaxed); ++i) {
      try {
        push(
            segment, worker,
            {.groups = {&group, 1}, .threads = threads, .audit = audit, .unfinished = &unfinished});
        mine.pushes.fetch_add(1, std::memory_order_relaxed);
        if (sync.contract->replica) {
          const PullBlock one{block.param, replica.data(), replica.size() * sizeof(double)};
          pull(segment, worker, {&one, 1});
        }
      } catch (const LockTimeout&) {
        mine.timeouts.fetch_add(1, std::memory_order_relaxed);
      }
      if (!sync.contract->may_tear)
        for (const double w : replica) CHECK_EQ(w, replica[0]);
      after_each();
    }
    segment.release_worker(worker);
  }
  pid_t start_worker(std::uint64_t most = ~std::uint64_t{0}) const {
    return fork_child([this, most] { work(most, [] {}); });
  }

  std::uint64_t pushes() const {
    std::uint64_t sum = 0;
    for (const Progress& p : shared.progress) sum += p.pushes.load(std::memory_order_relaxed);
    return sum;
  }
  std::uint64_t timeouts() const {
    std::uint64_t sum = 0;
    for (const Progress& p : shared.progress) sum += p.timeouts.load(std::memory_order_relaxed);
    return sum;
  }
  std::uint64_t counted(Counter WorkerSlot::* counter) const {
    std::uint64_t sum = 0;
    for (std::size_t w = 0; w < workers; ++w)
      sum += (store.segment.worker(w).*counter).load_relaxed();
    return sum;
  }
};

// Calls body for every sync, and once more for hogwild with its losses counted.
template <class Body>
void for_each_variant(Body body) {
  for_each_sync([&](const SyncInfo& sync) {
    body(sync, false);
    if (!sync.contract->may_lose) return;
    current_case += " audit";
    body(sync, true);
  });
}

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
    // A push that a killed worker had not finished shows nowhere.
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

  // Each repair is one killed owner's lock.
  const std::uint64_t repairs = fleet.counted(&WorkerSlot::repairs);
  CHECK_LE(repairs, kills);
  const std::string_view name = sync.name;
  if (!kSanitized && threads == 1 && (name == "mutex" || name == "seqlock")) CHECK_LE(1u, repairs);
  if (!sync.contract->may_block) CHECK_EQ(repairs, 0u);
}

void check_kills_of_one_thread(const SyncInfo& sync, bool audit) {
  // Long enough that a kill mostly falls into a push, and into a lock that is held.
  check_kills(sync, audit, often(2500, 10), 1, 4000);
}

// Several threads of the dead worker are inside of the push, and die one after the other.
// ASYNCOPT_CHAOS=long: 10,500 kills.
void check_kills_of_several_threads(const SyncInfo& sync, bool audit) {
  check_kills(sync, audit, often(30, 2), 3, kParallel + 1000);
}

// What a push of this sync waits for, and how it is left by a worker that stops or dies inside.
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
// lock stays its own; when it goes on, all is as if nothing had been.
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

// A worker is stopped at random instants: the other one goes on or is told of the lock, and nothing
// is lost.
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
  for_each_variant(check_kills_of_one_thread);
  for_each_variant(check_kills_of_several_threads);
  for_each_sync(check_takes_over_from_the_dead);
  for_each_sync(check_waits_for_the_stopped);
  for_each_sync(check_random_stops);
}
