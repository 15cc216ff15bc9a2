// Threads that increment the same elements: exact sums under each sync, and hogwild's losses.
#include <atomic>
#include <string>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::size_t kThreads = 4;
// Some turns of the scheduler, so that threads meet also where they share a core; and few enough
// pushes for float32 to count them.
constexpr double kSeconds = 0.06;
constexpr std::uint64_t kMostPushes = 1 << 22;  // of each thread
static_assert(kThreads * kMostPushes <= 1 << 24);

std::uint64_t sum_of(const Segment& segment, Counter WorkerSlot::* counter) {
  std::uint64_t sum = 0;
  for (std::uint64_t w = 0; w < segment.header().workers; ++w)
    sum += (segment.worker(w).*counter).load_relaxed();
  return sum;
}

// Calls push_once(worker, i) in all threads for a while; returns how often all in all, which is
// what the store has counted.
template <class PushOnce>
std::uint64_t hammer(const Store& store, PushOnce push_once) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> total{0};
  run_threads(kThreads, [&](std::size_t worker) {
    const auto start = Clock::now();
    std::uint64_t i = 0;
    for (; i < kMostPushes && !stop.load(std::memory_order_relaxed); ++i) {
      push_once(worker, i);
      if (i % 16 == 0 && seconds_since(start) > kSeconds) stop.store(true);
    }
    total.fetch_add(i);
  });
  CHECK_EQ(store.version(), total.load());
  CHECK_EQ(sum_of(store.segment, &WorkerSlot::pushes), total.load());
  std::uint64_t counted = 0;
  for (std::size_t w = 0; w < kThreads; ++w)
    for (const Counter& bucket : store.segment.worker(w).staleness)
      counted += bucket.load_relaxed();
  CHECK_EQ(counted, total.load());
  return total;
}

// All threads push all-ones gradients under one group of hyperparameters.
template <class T>
std::uint64_t hammer(const Store& store, const Group& hyper, bool audit = false) {
  const std::vector<T> ones(store.blocks[0].n, T(1));
  return hammer(store, [&](std::size_t worker, std::uint64_t) {
    Block block = store.blocks[0];
    block.grad = ones.data();
    Group group = hyper;
    group.blocks = {&block, 1};
    push(store.segment, worker, {.groups = {&group, 1}, .audit = audit});
  });
}

// w += 1: integers, which float64 and small counts in float32 hold exactly.
template <class T>
void check_increments(const SyncInfo& sync, const char* dtype, std::size_t n) {
  const Kernel& kernel = kernel_of("sgd", dtype);
  for (const bool audit : {false, true}) {
    const Store store(sync.name, kThreads, {{&kernel, n}});
    const auto total = hammer<T>(store, group_of(kernel, {{"lr", 1}, {"maximize", 1}}), audit);
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const T w = store.param<T>()[i];
      sum += static_cast<double>(w);
      if (!sync.contract->may_lose) CHECK_EQ(w, static_cast<T>(total));
      CHECK_LE(T(1), w);
      CHECK_LE(w, static_cast<T>(total));
      CHECK_EQ(w, std::floor(w));
    }
    const std::uint64_t lost = sum_of(store.segment, &WorkerSlot::lost_updates);
    if (audit || !sync.contract->may_lose)
      CHECK_EQ(static_cast<std::uint64_t>(sum) + lost, n * total);
    else
      CHECK_EQ(lost, 0u);  // nobody counted
  }
}

// Momentum 1 and a constant gradient: after T pushes the buffer is -T, and the parameter has gained
// 1 + 2 + ... + T. Both are exact where parameter and state change together, and where each is
// committed by compare-exchange.
void check_momentum(const SyncInfo& sync) {
  const Kernel& kernel = kernel_of("sgd_momentum", "float64");
  constexpr std::size_t n = 37;
  for (const bool audit : {false, true}) {
    const Store store(sync.name, kThreads, {{&kernel, n}});
    const Group group = group_of(kernel, {{"lr", 1}, {"momentum", 1}, {"maximize", 1}});
    const auto total = static_cast<double>(hammer<double>(store, group, audit));
    CHECK_EQ(*store.scalars(), total);
    double state = 0;
    for (std::size_t i = 0; i < n; ++i) {
      state -= store.slot<double>(0)[i];
      if (sync.contract->may_lose) continue;
      CHECK_EQ(store.slot<double>(0)[i], -total);
      CHECK_EQ(store.param<double>()[i], total * (total + 1) / 2);
    }
    const std::uint64_t lost = sum_of(store.segment, &WorkerSlot::lost_state_updates);
    if (audit || !sync.contract->may_lose)
      CHECK_EQ(state + static_cast<double>(lost), static_cast<double>(n) * total);
  }
}

// The push that counted step 1 reaches an element after the one that counted step 2 (under striped,
// say): starting the momentum buffer must not undo the other's update.
void check_first_push_overtaken() {
  const Kernel& kernel = kernel_of("sgd_momentum", "float64");
  const Group group = group_of(kernel, {{"lr", 1}, {"momentum", 1}, {"maximize", 1}});
  for (const bool atomic : {false, true}) {
    double w = 0, buffer = 0;
    const double g = 1;
    const Span span{&w, &g, {&buffer}, 1, 0};
    for (const double step : {2, 1}) {
      alignas(16) std::byte coef[kMaxCoef];
      double scalars[kMaxScalars] = {step};
      kernel.prepare(group.hyper, scalars, coef);
      Tally tally;
      if (atomic)
        kernel.loops.atomic(coef, span, tally);
      else
        kernel.loops.racy(coef, span);
    }
    CHECK_EQ(buffer, -2);
    CHECK_EQ(w, 3);
  }
}

// The count behind the bias corrections is exact everywhere, hogwild included.
void check_steps(const SyncInfo& sync) {
  for (const char* const rule : {"adam", "asgd"}) {
    const Kernel& kernel = kernel_of(rule, "float32");
    const Store store(sync.name, kThreads, {{&kernel, 5}});
    const auto total = hammer<float>(store, group_of(kernel, {{"lr", 0.01}}));
    CHECK_EQ(*store.scalars(), static_cast<double>(total));
    for (std::size_t i = 0; i < 5; ++i) CHECK(std::isfinite(store.param<float>()[i]));
  }
}

// An adaptive rule: whatever is lost or mixed, a step is at most lr * g / sqrt(g * g), because the
// denominator always includes the worker's own gradient.
void check_steps_are_bounded(const SyncInfo& sync) {
  const Kernel& kernel = kernel_of("adagrad", "float64");
  constexpr std::size_t n = 16;
  const Store store(sync.name, kThreads, {{&kernel, n}});
  const auto total =
      static_cast<double>(hammer<double>(store, group_of(kernel, {{"lr", 1}, {"maximize", 1}})));
  for (std::size_t i = 0; i < n; ++i) {
    const double sum = store.slot<double>(0)[i], w = store.param<double>()[i];
    CHECK_LE(1, sum);
    CHECK_LE(sum, total);
    CHECK_LE(0, w);
    CHECK_LE(w, total);
    if (!sync.contract->may_lose) CHECK_EQ(sum, total);
  }
}

// Pushes that overlap in part, by rows: every row has what was pushed to it.
void check_rows(const SyncInfo& sync) {
  if (sync.contract->may_lose) return;
  constexpr std::size_t kWidth = 5, kRows = 12;
  const Kernel& kernel = kernel_of("sgd", "float64");
  const Store store(sync.name, kThreads, {{&kernel, kRows * kWidth}});
  const std::vector<double> ones(3 * kWidth, 1.0);
  double pushed[kThreads][kRows] = {};
  hammer(store, [&](std::size_t worker, std::uint64_t i) {
    const std::size_t first = (i + worker) % kRows;
    const std::int64_t rows[] = {static_cast<std::int64_t>(first),
                                 static_cast<std::int64_t>((first + 1) % kRows),
                                 static_cast<std::int64_t>((first + 5) % kRows)};
    for (const std::int64_t row : rows) ++pushed[worker][row];
    Block block = store.blocks[0];
    block.grad = ones.data();
    block.rows = rows;
    block.row_count = 3;
    block.width = kWidth;
    Group group = group_of(kernel, {{"lr", 1}, {"maximize", 1}});
    group.blocks = {&block, 1};
    push(store.segment, worker, {.groups = {&group, 1}});
  });
  for (std::size_t i = 0; i < kRows * kWidth; ++i) {
    double expected = 0;
    for (const auto& mine : pushed) expected += mine[i / kWidth];
    CHECK_EQ(store.param<double>()[i], expected);
  }
}

}  // namespace

int main() {
  set_deadline();
  check_first_push_overtaken();
  for_each_sync([](const SyncInfo& sync) {
    check_increments<double>(sync, "float64", 37);
    check_increments<float>(sync, "float32", 37);
    check_increments<float>(sync, "float32", 1);  // lost_updates explains this very element
    check_momentum(sync);
    check_steps(sync);
    check_steps_are_bounded(sync);
    check_rows(sync);
  });
}
