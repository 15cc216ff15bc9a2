// The gate of the board with threads: staleness stays within the bound, and every wait ends.
#include <algorithm>
#include <atomic>
#include <random>

#include "board.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

// Each turn reads a version when it begins and raises it once it is admitted: never more than
// max_staleness versions of others came between, and with enough workers that many do.
void check_bound(std::size_t workers, std::uint64_t max_staleness) {
  current_case =
      std::to_string(workers) + " workers, max_staleness " + std::to_string(max_staleness);
  const int turns = count(1000, 200);
  const TestBoard board(workers);
  std::atomic<std::uint64_t> version{0}, worst{0};
  run_threads(workers, [&](std::size_t rank) {
    std::mt19937 random(static_cast<std::uint32_t>(rank));
    const auto dawdle = [&random] {
      if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 50));
    };
    for (int i = 0; i < turns; ++i) {
      const auto seen = board->begin(rank, max_staleness, 60 * kSecond);
      CHECK(seen.has_value());
      const std::uint64_t pulled = version.load();
      CHECK_LE(*seen, pulled);
      dawdle();
      if (random() % 16 == 0) continue;  // a turn without a push
      CHECK(board->admit(rank, 60 * kSecond));
      CHECK(board->admit(rank, 0));  // the second push of a turn does not wait
      dawdle();
      const std::uint64_t staleness = version.fetch_add(1) - pulled;
      CHECK_LE(staleness, max_staleness);
      std::uint64_t before = worst.load();
      while (before < staleness && !worst.compare_exchange_weak(before, staleness)) {
      }
      dawdle();
      if (random() % 2 == 0) board->end(rank);  // else the next one's begin ends it
    }
    board->end(rank);
  });
  CHECK_EQ(board->turns(), version.load());
  CHECK(board->in_turn().empty());
  if (max_staleness != kUnbounded && workers > 1 && !kSanitized)
    CHECK_LE(std::min<std::uint64_t>(max_staleness, 1), worst.load());  // turns do overlap
  current_case.clear();
}

// The rule by hand: one thread in three seats, max_staleness 1.
void check_gate_by_hand() {
  const TestBoard board(3);
  const auto begin = [&](std::size_t rank) { return board->begin(rank, 1, 0).has_value(); };
  CHECK(begin(0));
  CHECK(begin(1));
  CHECK(!begin(2));  // of three open turns, the last to push would be two behind
  CHECK(board->admit(1, 0));
  board->end(1);
  CHECK(!begin(1));  // there is room for one more, but worker 2 has waited longer
  CHECK(begin(2));
  CHECK(!begin(1));
  CHECK(!board->admit(2, 0));  // worker 0 may not be overtaken twice
  CHECK(board->admit(0, 0));
  CHECK(!board->admit(2, 0));  // nor while it is pushing
  board->end(0);
  CHECK(board->admit(2, 0));
  CHECK(begin(1));
  CHECK_EQ(board->turns(), 2u);
  CHECK_EQ(board->in_turn().size(), 2u);
}

void check_leave_frees() {
  const TestBoard board(2);
  CHECK(board->begin(0, 0, 0).has_value());
  CHECK(!board->begin(1, 0, kSecond / 100).has_value());
  CHECK_EQ(board->in_turn().size(), 1u);
  std::thread launcher([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    board->leave(0);
  });
  CHECK(board->begin(1, 0, 10 * kSecond).has_value());
  launcher.join();
  // A waiter that died does not keep its place in the queue.
  CHECK(!board->begin(0, 0, 0).has_value());
  board->leave(0);
  board->end(1);
  CHECK(board->begin(1, 0, 0).has_value());
}

}  // namespace

int main() {
  set_deadline();
  for (const std::size_t workers : {1u, 2u, 5u})
    for (const std::uint64_t bound :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{100}, kUnbounded})
      check_bound(workers, bound);
  check_gate_by_hand();
  check_leave_frees();
}
