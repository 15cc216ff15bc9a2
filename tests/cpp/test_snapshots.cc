// Torn-read hunts: under the syncs that promise whole versions, every pull must be one.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// SGD with momentum 1 on all-ones gradients: in version t every buffer is -t, every parameter
// t (t + 1) / 2, and the step t. All of it is pulled, so that a version that mixes anything shows.
struct Hunt {
  static constexpr std::size_t kWriters = 2, kReaders = 2;
  static constexpr double kSeconds = 0.25;  // at least: many turns of the scheduler
  // Later versions come slowly, so that t (t + 1) / 2 stays exact however long readers are held up.
  static constexpr std::uint64_t kExact = 100'000'000;

  const std::size_t n;
  const std::size_t idle;  // worker slots before those at work
  const Kernel& kernel = kernel_of("sgd_momentum", "float64");
  const Store store;
  std::atomic<std::size_t> reading{kReaders};

  Hunt(const SyncInfo& sync, std::size_t elements, std::size_t idle_workers = 0)
      : n(elements),
        idle(idle_workers),
        store(sync.name, idle + kWriters + kReaders, {{&kernel, n}, {&kernel, 3}}) {}

  void write(std::size_t worker) {
    const std::vector<double> ones(n, 1.0);
    std::vector<Block> blocks = store.blocks;
    for (Block& block : blocks) block.grad = ones.data();
    Group group = group_of(kernel, {{"lr", 1}, {"momentum", 1}, {"maximize", 1}});
    group.blocks = blocks;
    std::uint64_t last = 0;
    while (reading.load(std::memory_order_relaxed) != 0) {
      const PushResult result = push(store.segment, worker, {.groups = {&group, 1}});
      CHECK(last < result.version);
      last = result.version;
      if (last > kExact) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void read(std::size_t worker, std::uint64_t pulls) {
    struct Copy {
      std::vector<double> params, buffers;
      double step;
    };
    Copy copies[2];
    std::vector<PullBlock> blocks;
    for (std::size_t i = 0; i < 2; ++i) {
      const Block& block = store.blocks[i];
      copies[i] = {std::vector<double>(block.n), std::vector<double>(block.n), -1};
      blocks.push_back({block.param, copies[i].params.data(), block.n * sizeof(double)});
      blocks.push_back({block.slots[0], copies[i].buffers.data(), block.n * sizeof(double)});
      blocks.push_back({block.scalars, &copies[i].step, sizeof(double)});
    }
    std::uint64_t last = 0;
    std::uint64_t changes =
        0;  // pulls that found a new version: of the others, writers may have slept
    const auto start = Clock::now();
    for (std::uint64_t p = 0; p < pulls || changes < pulls / 10 || seconds_since(start) < kSeconds;
         ++p) {
      const std::uint64_t version = pull(store.segment, worker, blocks);
      CHECK_LE(last, version);  // never back in time
      changes += version != last;
      last = version;
      const auto t = static_cast<double>(version);
      for (const Copy& copy : copies) {
        CHECK_EQ(copy.step, t);
        for (const double buffer : copy.buffers) CHECK_EQ(buffer, -t);
        for (const double param : copy.params) CHECK_EQ(param, t * (t + 1) / 2);
      }
    }
    // The writers have not stopped, and yet each pull came to an end.
    CHECK_LE(seconds_since(start), 200 * static_cast<double>(long_run()));
    reading.fetch_sub(1);
  }

  void run(std::uint64_t pulls) {
    run_threads(kWriters + kReaders, [&](std::size_t i) {
      if (i < kWriters)
        write(idle + i);
      else
        read(idle + i, pulls);
    });
    CHECK_EQ(*store.scalars(), static_cast<double>(store.version()));
  }
};

// A writer that holds the lock of a seqlock for longer than readers wait. The reader's copy of the
// second tensor lies on the sequence itself and makes it odd: a writer has come in the middle.
void check_torn_pull() {
  current_case = "torn pull";
  const Kernel& kernel = kernel_of("sgd", "float64");
  const Store store("seqlock", 2, {{&kernel, 1}, {&kernel, 1}}, /*lock_timeout=*/0.01);
  Header& header = store.segment.header();
  *store.param<double>(0) = 5;
  *store.param<double>(1) = __builtin_bit_cast(double, std::uint64_t{7});
  double replica = -1;
  const PullBlock first{store.blocks[0].param, &replica, sizeof replica};
  const PullBlock both[] = {first, {store.blocks[1].param, &header.sequence, sizeof(double)}};
  std::atomic<int> stage{0};
  run_threads(2, [&](std::size_t i) {
    const auto wait_for = [&](int reached) {
      while (stage.load() < reached) std::this_thread::yield();
    };
    Tally tally;
    if (i == 0) {
      const RobustLock writing(header.mutex, store.segment.timeout_ns(), tally);
      stage = 1;
      wait_for(2);
      return;
    }
    wait_for(1);
    CHECK_THROWS(LockTimeout, "the replica has parts of several versions now: pull again",
                 pull(store.segment, 1, both));
    CHECK_EQ(replica, 5.0);
    replica = -1;
    try {  // the sequence is odd from the start: nothing is copied
      pull(store.segment, 1, {&first, 1});
      CHECK(false);
    } catch (const TornPull&) {
      CHECK(false);
    } catch (const LockTimeout&) {
    }
    CHECK_EQ(replica, -1.0);
    stage = 2;
  });
  header.sequence = 0;
  CHECK_EQ(pull(store.segment, 1, {&first, 1}), 0u);
  CHECK_EQ(replica, 5.0);
}

}  // namespace

int main() {
  set_deadline();
  check_torn_pull();
  for_each_sync([](const SyncInfo& sync) {
    if (sync.contract->may_tear) return;
    const std::string name = sync.name;
    current_case = name + ", one cache line";
    Hunt(sync, 5).run(often(250'000, 3000));
    // Leashed looks at every worker before it writes to a copy: that takes long enough here for
    // versions to come and go meanwhile.
    current_case = name + ", many workers";
    Hunt(sync, 5, 1000).run(often(20'000, 1000));
    current_case = name + ", some pages";
    Hunt(sync, 1000).run(often(10'000, 1000));
  });
}
