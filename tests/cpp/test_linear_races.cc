// Linear models of several workers: exact sums under each sync, merged copies, interruption.
#include <algorithm>
#include <atomic>
#include <latch>
#include <numeric>
#include <thread>

#include "linear.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::size_t kWorkers = 4;
constexpr std::size_t kColumns = 3000;
// More levels than one, and fewer columns than there are.
constexpr linear::Sync kPartly{.name = "partly replicated", .own = 2000, .merge_every = 64};
constexpr auto kGoOn = [] { return true; };

// The Huber loss far from its target has the slope -epsilon: with epsilon, eta0 and all values 1 a
// step adds exactly 1 to each of its columns, which float32 counts exactly.
struct Counting {
  Examples examples;
  std::vector<std::int64_t> order;
  std::vector<float> expected = std::vector<float>(kColumns);
  static constexpr linear::Settings settings{1, 0, 0, 0, 1, nullptr};

  Counting() : examples(kColumns, std::vector<std::size_t>(often(4000, 400), 40), 7) {
    for (float& value : examples.value) value = 1;
    for (float& target : examples.target) target = 1e12f;
    for (std::int64_t k = 0; k < examples.begin.back(); ++k)
      ++expected[static_cast<std::size_t>(examples.column[static_cast<std::size_t>(k)])];
    order.resize(examples.rows() / 8);
    std::iota(order.begin(), order.end(), 0);
  }
  linear::Pass pass() const { return examples.pass(order, 8, settings); }
};

void check_counts() {
  std::vector<linear::Sync> syncs(std::begin(linear::kSyncs), std::end(linear::kSyncs));
  syncs.push_back(kPartly);
  const Counting counting;
  constexpr int passes = 3;
  for (const char* const step : {"scaled", "adagrad", "ftrl"})
    for (const linear::Sync& sync : syncs) {
      current_case = std::string(sync.name) + " " + step;
      linear::Trainer trainer(linear_kernel("huber", step), sync, kColumns, kWorkers);
      for (int pass = 0; pass < passes; ++pass) CHECK(trainer.run(counting.pass(), kGoOn));
      const bool adaptive = !trainer.squares().empty();
      const std::span<float> counted = adaptive ? trainer.squares() : trainer.weights();
      for (std::size_t u = 0; u < kColumns; ++u) {
        const float all = passes * counting.expected[u];
        const bool exact = sync.atomic || sync.locked || sync.in_turn || sync.ordered ||
                           (!sync.average && u < sync.own);  // merged copies lose nothing
        if (exact) CHECK_EQ(counted[u], all);
        CHECK(all == 0 || counted[u] > 0);  // shared or merged
        CHECK_LE(counted[u], all);
        CHECK_LE(trainer.weights()[u], all);
      }
    }
}

// The sums behind the mean are exact despite races: the sum, over a column's examples, of the
// number of examples before.
void check_means() {
  const Counting counting;
  std::vector<float> expected(kColumns);
  for (std::size_t i = 0; i < counting.examples.rows(); ++i)
    for (std::int64_t k = counting.examples.begin[i]; k < counting.examples.begin[i + 1]; ++k)
      expected[static_cast<std::size_t>(counting.examples.column[static_cast<std::size_t>(k)])] +=
          static_cast<float>(i);
  for (const linear::Sync& sync : linear::kSyncs) {
    if (sync.average) continue;
    current_case = std::string(sync.name) + " mean";
    linear::Trainer trainer(linear_kernel("huber", "averaged_scaled"), sync, kColumns, kWorkers);
    CHECK(trainer.run(counting.pass(), kGoOn));
    for (std::size_t u = 0; u < kColumns; ++u) {
      CHECK_EQ(trainer.weights()[u], counting.expected[u]);
      CHECK_EQ(trainer.sums()[u], expected[u]);
    }
  }
}

// All examples go to two copies, whose changes are added up where steps are small; where each copy
// goes all the way, the sum of two would be twice as far as the optimum, and they are averaged.
void check_merge_does_not_overshoot() {
  current_case = "merge";
  Examples examples(1, std::vector<std::size_t>(2 * 4096, 1), 8);
  for (float& value : examples.value) value = 1;
  for (float& target : examples.target) target = 3;
  examples.curvature[0] = 1;
  std::vector<std::int64_t> order(examples.rows() / 512);
  std::iota(order.begin(), order.end(), 0);
  // Again and again: workers have to meet for it.
  for (int trial = 0; trial < 50; ++trial) {
    linear::Trainer trainer(linear_kernel("squared_error", "scaled"), linear_sync("replicated"), 1,
                            kWorkers);
    CHECK(trainer.run(examples.pass(order, 512, {0.1f, 0, 0, 0, 0, nullptr}), kGoOn));
    CHECK_LE(std::fabs(trainer.weights()[0] - 3), 2.5);
  }
}

// Turns go round in rank order and skip workers that have ended.
void check_turns() {
  current_case = "turns";
  constexpr std::size_t workers = 8;  // more than cores
  const auto turns_of = [](std::size_t rank) { return often(100, 20) * (1 + rank * 3 % workers); };
  linear::Round round(workers);
  std::vector<std::size_t> turns;
  std::latch all_here(workers);
  {
    std::vector<std::jthread> threads;
    for (std::size_t rank = 0; rank < workers; ++rank)
      threads.emplace_back([&, rank] {
        linear::Round::Seat seat(round, rank);
        all_here.arrive_and_wait();
        for (std::size_t i = 0; i < turns_of(rank); ++i) {
          const linear::Turn turn(&seat);
          turns.push_back(rank);
        }
      });
  }
  std::vector<std::size_t> expected;
  for (std::size_t i = 0; i < workers * often(100, 20); ++i)
    for (std::size_t k = 0; k < workers; ++k) {
      const std::size_t rank = (turns[0] + k) % workers;  // the first to come is the first
      if (i < turns_of(rank)) expected.push_back(rank);
    }
  CHECK(turns == expected);
  for (const std::size_t rank : {3, 1}) {
    linear::Round::Seat alone(round, rank);
    for (int i = 0; i < 3; ++i) const linear::Turn turn(&alone);
  }
}

// Pieces without a common column: any number of workers leaves the bits of one.
void check_ordered() {
  Examples examples(20000, std::vector<std::size_t>(often(3000, 600), 3), 9);
  constexpr std::size_t block = 128;
  std::vector<std::int64_t> rows(examples.rows()), order(examples.rows() / block + 1);
  std::iota(rows.begin(), rows.end(), 0);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::reverse(order);
  const linear::Conflicts found = linear::find_conflicts(
      std::span<const std::int64_t>(examples.begin), std::span<const std::int32_t>(examples.column),
      examples.columns, rows, block, 1);
  CHECK_LE(found.longest, 0.25);
  const Examples arranged = examples.arranged(found.rows);
  for (const linear::Kernel& kernel : linear::kernels()) {
    current_case = std::string("ordered ") + kernel.loss + " " + kernel.step;
    const auto train = [&](const char* sync, std::size_t workers,
                           std::span<const std::int64_t> pieces) {
      linear::Trainer trainer(kernel, linear_sync(sync), examples.columns, workers);
      Kept kept(arranged, trainer);
      linear::Pass pass = arranged.pass(order, block, {0.1f, 0.01f, 0.001f, 0.01f, 1, nullptr});
      kept.give(pass);
      pass.settings.examples = static_cast<float>(arranged.rows());
      pass.pieces = pieces;
      for (int repeat = 0; repeat < 3; ++repeat) {
        CHECK(trainer.run(pass, kGoOn));
        pass.t += arranged.rows();
      }
      const std::span<float> weights = trainer.weights();
      return std::vector<float>(weights.begin(), weights.end());
    };
    const std::vector<float> expected = train("hogwild", 1, {});
    for (const std::size_t workers : {1, 2, 4})
      CHECK(train("ordered", workers, found.pieces) == expected);
    CHECK(train("ordered", 2, {}) == expected);  // one block after the other
  }
}

// The caller interrupts: workers stop, and their threads end.
void check_stop() {
  const Counting counting;
  for (const linear::Sync& sync : linear::kSyncs) {
    current_case = sync.name;
    linear::Trainer trainer(linear_kernel("huber", "scaled"), sync, kColumns, kWorkers);
    const auto start = Clock::now();
    bool stopped = false;
    while (!stopped && seconds_since(start) < 20) {
      linear::Pass pass = counting.pass();
      std::vector<std::int64_t> long_order;
      for (int i = 0; i < 2000; ++i)
        long_order.insert(long_order.end(), counting.order.begin(), counting.order.end());
      pass.order = long_order;
      stopped = !trainer.run(pass, [] { return false; });
    }
    CHECK(stopped);
  }
}

}  // namespace

int main() {
  set_deadline();
  check_counts();
  check_means();
  check_merge_does_not_overshoot();
  check_turns();
  check_ordered();
  check_stop();
}
