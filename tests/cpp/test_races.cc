// Threads that increment the same elements: what adds up under each sync, and what hogwild loses.
#include <string>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::size_t kThreads = 4;
constexpr std::uint64_t kPushes = count(3000, 300);  // of each thread

std::uint64_t sum_of(const Segment& segment, Counter WorkerSlot::* counter) {
  std::uint64_t sum = 0;
  for (std::uint64_t w = 0; w < segment.header().workers; ++w)
    sum += (segment.worker(w).*counter).load_relaxed();
  return sum;
}

// All threads push all-ones gradients under one group of hyperparameters.
template <class T>
void hammer(const Store& store, const Group& hyper, bool audit = false) {
  const std::vector<T> ones(store.blocks[0].n, T(1));
  run_threads(kThreads, [&](std::size_t w) {
    Block block = store.blocks[0];
    block.grad = ones.data();
    Group group = hyper;
    group.blocks = {&block, 1};
    for (std::uint64_t i = 0; i < kPushes; ++i)
      push(store.segment, w, {.groups = {&group, 1}, .audit = audit});
  });
  constexpr std::uint64_t total = kThreads * kPushes;
  CHECK_EQ(store.version(), total);
  CHECK_EQ(sum_of(store.segment, &WorkerSlot::pushes), total);
  // Every version was given out once, so that staleness is what the others did in between.
  std::uint64_t counted = 0;
  for (std::size_t w = 0; w < kThreads; ++w)
    for (const Counter& bucket : store.segment.worker(w).staleness)
      counted += bucket.load_relaxed();
  CHECK_EQ(counted, total);
}

// w += 1: integers, which float64 and small counts in float32 hold exactly.
template <class T>
void check_increments(const SyncInfo& sync, const char* dtype, std::size_t n) {
  const Kernel& kernel = kernel_of("sgd", dtype);
  constexpr std::uint64_t total = kThreads * kPushes;
  static_assert(total < 1u << 24);
  for (const bool audit : {false, true}) {
    const Store store(sync.name, kThreads, {{&kernel, n}});
    hammer<T>(store, group_of(kernel, {{"lr", 1}, {"maximize", 1}}), audit);
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
  constexpr double total = kThreads * kPushes;
  for (const bool audit : {false, true}) {
    const Store store(sync.name, kThreads, {{&kernel, n}});
    hammer<double>(store, group_of(kernel, {{"lr", 1}, {"momentum", 1}, {"maximize", 1}}), audit);
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
    hammer<float>(store, group_of(kernel, {{"lr", 0.01}}));
    CHECK_EQ(*store.scalars(), static_cast<double>(kThreads * kPushes));
    for (std::size_t i = 0; i < 5; ++i) CHECK(std::isfinite(store.param<float>()[i]));
  }
}

// Adaptive rules with equal gradients: whatever is lost or mixed, each step stays within bounds,
// because the denominator always includes the worker's own gradient.
void check_steps_are_bounded(const SyncInfo& sync) {
  const Kernel& kernel = kernel_of("adagrad", "float64");
  constexpr std::size_t n = 16;
  const Store store(sync.name, kThreads, {{&kernel, n}});
  hammer<double>(store, group_of(kernel, {{"lr", 1}, {"maximize", 1}}));
  constexpr double total = kThreads * kPushes;
  for (std::size_t i = 0; i < n; ++i) {
    const double sum = store.slot<double>(0)[i], w = store.param<double>()[i];
    CHECK_LE(1, sum);
    CHECK_LE(sum, total);
    CHECK_LE(w, total);  // each step at most lr * g / sqrt(g * g)
    CHECK_LE(0, w);
    if (!sync.contract->may_lose) CHECK_EQ(sum, total);
  }
}

// Threads whose tensors overlap in part, by rows: every row gets what was pushed to it.
void check_rows(const SyncInfo& sync) {
  if (sync.contract->may_lose) return;
  constexpr std::size_t width = 5;
  constexpr std::int64_t kRows = 12;
  const Kernel& kernel = kernel_of("sgd", "float64");
  const Store store(sync.name, kThreads, {{&kernel, kRows * width}});
  const std::vector<double> ones(3 * width, 1.0);
  run_threads(kThreads, [&](std::size_t w) {
    Block block = store.blocks[0];
    block.grad = ones.data();
    block.row_count = 3;
    block.width = width;
    Group group = group_of(kernel, {{"lr", 1}, {"maximize", 1}});
    group.blocks = {&block, 1};
    for (std::uint64_t i = 0; i < kPushes; ++i) {
      const auto first = static_cast<std::int64_t>(i + w) % kRows;
      const std::int64_t picked[] = {first, (first + 1) % kRows, (first + 5) % kRows};
      block.rows = picked;
      push(store.segment, w, {.groups = {&group, 1}});
    }
  });
  static_assert(kPushes % kRows == 0);  // every row was picked as often
  for (std::size_t i = 0; i < kRows * width; ++i)
    CHECK_EQ(store.param<double>()[i], static_cast<double>(kThreads * kPushes * 3 / kRows));
}

}  // namespace

int main() {
  alarm(250);
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
