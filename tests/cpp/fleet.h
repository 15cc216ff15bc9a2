// Worker processes that push to one store, for the tests of increments, kills and stops.
#pragma once

#include <atomic>
#include <vector>

#include "support.h"

namespace asyncopt::test {

// Beside the store: each worker's count of pushes that it has certainly completed.
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

  // Pushes until stopped, or `most` times; a replica's worker pulls after each push.
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

}  // namespace asyncopt::test
