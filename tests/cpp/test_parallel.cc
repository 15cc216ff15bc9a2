// Work spread over threads: each piece runs once, for any caller and number of calls.
#include <atomic>
#include <stdexcept>
#include <string>

#include "asyncopt/push/apply.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

void check_covers(std::size_t n, std::size_t threads) {
  std::vector<std::atomic<int>> calls(n);
  parallel_for(n, threads, [&](std::size_t i) { calls[i].fetch_add(1); });
  for (const auto& each : calls) CHECK_EQ(each.load(), 1);
}

void check_each_index_once() {
  for (const std::size_t n : {0u, 1u, 2u, 3u, 7u, 100u, 1000u})
    for (const std::size_t threads : {0u, 1u, 2u, 3u, 4u, 9u}) {
      current_case = std::to_string(n) + " on " + std::to_string(threads);
      for (int i = 0; i < count(50, 10); ++i) check_covers(n, threads);
    }
  current_case.clear();
}

// The caller sees the writes of its tasks without atomics of its own.
void check_results_are_seen() {
  std::vector<int> squares(500);
  for (int round = 0; round < count(200, 50); ++round) {
    parallel_for(squares.size(), 3,
                 [&](std::size_t i) { squares[i] = static_cast<int>(i * i) + round; });
    for (std::size_t i = 0; i < squares.size(); ++i)
      CHECK_EQ(squares[i], static_cast<int>(i * i) + round);
  }
}

// Helpers take part: two tasks that wait for each other can only end on two threads. The caller
// waits for a late helper.
void check_helpers_take_part() {
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> met{0}, ended{0};
  parallel_for(2, 2, [&](std::size_t) {
    met.fetch_add(1);
    const auto start = Clock::now();
    while (met.load() != 2) {
      CHECK_LE(seconds_since(start), 30);
      std::this_thread::yield();
    }
    if (std::this_thread::get_id() != caller)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ended.fetch_add(1);
  });
  CHECK_EQ(ended.load(), 2);
}

// No more threads work than were asked for.
void check_threads_are_limited() {
  std::atomic<int> inside{0}, most{0};
  parallel_for(200, 2, [&](std::size_t) {
    const int now = inside.fetch_add(1) + 1;
    int seen = most.load();
    while (now > seen && !most.compare_exchange_weak(seen, now)) {
    }
    std::this_thread::yield();
    inside.fetch_sub(1);
  });
  CHECK_LE(most.load(), 2);
}

void check_concurrent_callers() {
  run_threads(3, [](std::size_t) {
    for (int i = 0; i < count(200, 50); ++i) check_covers(64, 3);
  });
}

void check_nested_callers() {
  std::vector<std::atomic<int>> calls(8 * 16);
  parallel_for(8, 3, [&](std::size_t i) {
    parallel_for(16, 3, [&](std::size_t j) { calls[i * 16 + j].fetch_add(1); });
  });
  for (const auto& each : calls) CHECK_EQ(each.load(), 1);
}

// A thread gets adjacent pieces, and the same ones in every equal call.
void check_ranges_stay() {
  constexpr std::size_t n = 103;
  std::vector<std::size_t> first;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread::id> by(n);
    parallel_for(n, 3, [&](std::size_t i) { by[i] = std::this_thread::get_id(); });
    std::vector<std::size_t> starts;
    for (std::size_t i = 1; i < n; ++i)
      if (by[i] != by[i - 1]) starts.push_back(i);
    CHECK_EQ(starts.size(), 2u);
    if (round == 0) first = starts;
    CHECK(starts == first);
  }
}

// Threads do not survive a fork: the child works alone instead of waiting for them.
void check_forked_child() {
  check_covers(100, 3);
  const pid_t child = fork_child([] {
    const std::thread::id caller = std::this_thread::get_id();
    parallel_for(100, 3, [&](std::size_t) { CHECK(std::this_thread::get_id() == caller); });
    check_each_index_once();
  });
  CHECK_EQ(wait_for(child, 60), 0);
  check_helpers_take_part();
}

// Forks of a process that called expect_forks() have threads of their own; their forks do not.
void check_expected_fork() {
  const pid_t child = fork_child([] {
    expect_forks();
    const pid_t fork = fork_child([] {
      check_helpers_take_part();
      check_forked_child();
    });
    CHECK_EQ(wait_for(fork, 60), 0);
  });
  CHECK_EQ(wait_for(child, 60), 0);
}

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An exception of a thread reaches the caller once all have ended; the threads stay usable.
void check_exceptions_reach_the_caller() {
  for (const std::size_t threads : {1u, 2u, 3u, 4u})
    for (std::size_t at = 0; at < 12; ++at) {
      std::atomic<std::size_t> begun{0}, ended{0};
      CHECK_THROWS(Broken, "number " + std::to_string(at),
                   parallel_for(12, threads, [&](std::size_t i) {
                     begun.fetch_add(1);
                     if (i == at) throw Broken("number " + std::to_string(at) + '.');
                     ended.fetch_add(1);
                   }));
      CHECK_EQ(begun.load(), ended.load() + 1);
      if (threads == 1) CHECK_EQ(ended.load(), at);  // nothing is begun after it
    }
  check_covers(100, 3);
}

// A failing range ends the push with its error, not the process, and the threads stay usable.
void check_exceptions_pass_through_apply() {
  const Kernel& kernel = kernel_of("sgd", "float32");
  const std::size_t n = kParallel + 5 * kChunk;
  const Store store("hogwild", 1, {{&kernel, n}});
  const std::vector<float> grad(n, 1.0f);
  Block block = store.blocks[0];
  block.grad = grad.data();
  Group group = group_of(kernel, {{"lr", 1}});
  group.blocks = {&block, 1};
  for (const std::size_t threads : {1u, 2u, 3u}) {
    const Push push{.groups = {&group, 1}, .threads = threads};
    for (int round = 0; round < 20; ++round) {
      Tally tally;
      std::atomic<int> ranges{0};
      const auto fail_once = [&](const Update&, const Span&, std::uintptr_t, Tally& t) {
        ++t.retries;
        if (ranges.fetch_add(1) == 0) throw Broken("the first range");
      };
      CHECK_THROWS(Broken, "the first range", apply(push, store.segment.data(), tally, fail_once));
      CHECK_EQ(tally.retries, static_cast<std::uint64_t>(ranges.load()));
      check_covers(100, threads);
    }
  }
}

}  // namespace

int main() {
  set_deadline();
  check_expected_fork();  // while there are no threads
  check_each_index_once();
  check_results_are_seen();
  check_helpers_take_part();
  check_threads_are_limited();
  check_concurrent_callers();
  check_nested_callers();
  check_ranges_stay();
  check_forked_child();
  check_exceptions_reach_the_caller();
  check_exceptions_pass_through_apply();
}
