// Torn-read hunts: under the syncs that promise whole versions, every pull must be one.
#include <atomic>
#include <string>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// SGD with momentum 1 on all-ones gradients: in version t every buffer is -t, every parameter
// t (t + 1) / 2, and the step t. All of it is pulled, so that a version that mixes anything shows.
struct Hunt {
  static constexpr std::size_t kWriters = 2, kReaders = 2;
  static constexpr double kSeconds = 0.25;  // at least: many turns of the scheduler

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

}  // namespace

int main() {
  set_deadline();
  for_each_sync([](const SyncInfo& sync) {
    if (sync.contract->may_tear) return;
    const std::string name = sync.name;
    current_case = name + ", one cache line";
    Hunt(sync, 5).run(often(2'500'000, 3000));
    // Leashed looks at every worker before it writes to a copy: that takes long enough here for
    // versions to come and go meanwhile.
    current_case = name + ", many workers";
    Hunt(sync, 5, 1000).run(often(20'000, 1000));
    current_case = name + ", some pages";
    Hunt(sync, 1000).run(often(10'000, 1000));
  });
}
