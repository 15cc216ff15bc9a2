// Torn-read hunts with killed writers: under the syncs that guarantee whole versions, every pull is
// one, and versions never go back, at any instant and number of kills.
#include <atomic>
#include <random>
#include <string>

#include "stepped.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// SGD with momentum 1 on all-ones gradients: in version t every buffer is -t, every parameter
// t (t + 1) / 2, and the step t.
struct Hunt {
  static constexpr std::size_t kReader = 0;  // the writers are 1, 2 ...

  const std::size_t n;
  const Kernel& kernel = kernel_of("sgd_momentum", "float64");
  const Store store;
  std::vector<double> ones = std::vector<double>(n, 1.0), params = ones, buffers = ones;
  double step = -1;
  std::uint64_t last = 0;

  Hunt(const SyncInfo& sync, std::size_t elements, std::size_t writers)
      : n(elements), store(sync.name, 1 + writers, {{&kernel, n}}, 20) {}

  // The store, new; in the same place.
  void reset() {
    std::memset(store.memory.data(), 0, store.memory.size());
    Segment::create(store.memory.data(), store.memory.size(), store.config);
    last = 0;
  }

  void push_once(std::size_t worker) {
    Block block = store.blocks[0];
    block.grad = ones.data();
    Group group = group_of(kernel, {{"lr", 1}, {"momentum", 1}, {"maximize", 1}});
    group.blocks = {&block, 1};
    push(store.segment, worker, {.groups = {&group, 1}});
  }

  void pull_once() {
    const Block& block = store.blocks[0];
    const PullBlock all[] = {{block.param, params.data(), n * sizeof(double)},
                             {block.slots[0], buffers.data(), n * sizeof(double)},
                             {block.scalars, &step, sizeof(double)}};
    const std::uint64_t version = pull(store.segment, kReader, all);
    CHECK_LE(last, version);
    last = version;
    const auto t = static_cast<double>(version);
    CHECK_EQ(step, t);
    for (const double buffer : buffers) CHECK_EQ(buffer, -t);
    for (const double param : params) CHECK_EQ(param, t * (t + 1) / 2);
  }
};

// One push, killed at any instant: the store has the version before or after it, and the next push
// continues from there.
void check_deaths_in_a_push(const SyncInfo& sync) {
  current_case = sync.name;
  Hunt hunt(sync, 5, 1);
  std::uint64_t repairs = 0;
  const auto set_up = [&hunt] {
    hunt.reset();
    hunt.push_once(1);
  };
  const auto push_once = [&hunt] { hunt.push_once(1); };
  for_each_death(hunt.store.memory, set_up, push_once, push_once, [&](bool died) {
    hunt.pull_once();
    CHECK(hunt.last == 3 || (died && hunt.last == 2));
    const std::uint64_t survived = hunt.last;
    hunt.push_once(1);
    hunt.pull_once();
    CHECK_EQ(hunt.last, survived + 1);
    CHECK_EQ(hunt.store.version(), hunt.last);
    std::uint64_t repaired = 0;
    for (const std::size_t worker : {0u, 1u})
      repaired += hunt.store.segment.worker(worker).repairs.load_relaxed();
    CHECK_LE(repaired, died ? 1u : 0u);
    repairs += repaired;
  });
  if (std::string_view(sync.name) == "seqlock") CHECK_LE(5u, repairs);
  current_case.clear();
}

// Writers at full speed, killed at random and replaced, beside a reader that checks every version.
void check_random_deaths(const SyncInfo& sync, std::size_t n) {
  constexpr std::size_t kWriters = 2;
  current_case = std::string(sync.name) + ", " + std::to_string(n) + " elements";
  Hunt hunt(sync, n, kWriters);
  const Mapping memory(sizeof(std::atomic<bool>));
  auto& stop = *static_cast<std::atomic<bool>*>(memory.data());
  const auto start = [&](std::size_t worker) {
    return fork_child([&hunt, &stop, worker] {
      while (!stop.load(std::memory_order_relaxed)) hunt.push_once(worker);
    });
  };
  pid_t writers[kWriters];
  for (std::size_t i = 0; i < kWriters; ++i) writers[i] = start(1 + i);
  std::mt19937 random(5);
  for (std::uint64_t k = 0; k < often(100, 5); ++k) {
    const std::uint64_t before = hunt.last;
    const auto since = Clock::now();
    for (std::size_t pulls = 0; pulls < 20 + 2000 / n || hunt.last < before + 3; ++pulls) {
      hunt.pull_once();
      CHECK_LE(seconds_since(since), 10);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    const std::size_t victim = random() % kWriters;
    kill(writers[victim], SIGKILL);
    CHECK(WIFSIGNALED(wait_for(writers[victim], 10)));
    hunt.pull_once();
    writers[victim] = start(1 + victim);
  }
  stop.store(true);
  for (const pid_t writer : writers) CHECK_EQ(wait_for(writer, 30), 0);
  hunt.pull_once();
  CHECK_EQ(hunt.last, hunt.store.version());
  current_case.clear();
}

}  // namespace

int main() {
  set_deadline();
  for_each_sync([](const SyncInfo& sync) {
    if (sync.contract->may_tear) return;
    check_deaths_in_a_push(sync);
    for (const std::size_t n : {5u, 4000u}) check_random_deaths(sync, n);
  });
}
