// Distribution of the tasks of one pass over data among threads. A task takes several milliseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>

namespace asyncopt {

// Hands out the tasks 0 ... count - 1, each to one thread, in their order.
class Tasks {
 public:
  // Task t begins when the tasks 0 ... after[t] - 1 have ended. `after` is empty or non-decreasing.
  Tasks(std::size_t count, std::span<const std::size_t> after) : count_(count), after_(after) {}

  // The next task; none once all are taken or `stop` was called.
  std::optional<std::size_t> take();
  void end() { ended_.fetch_add(1, std::memory_order_release); }  // pairs with take's acquire

  void stop() { stopped_.store(true, std::memory_order_relaxed); }
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  const std::size_t count_;
  const std::span<const std::size_t> after_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> ended_{0};
  std::atomic<bool> stopped_{false};
};

// One thread's access to the tasks; its last task ends when it takes the next.
class Member {
 public:
  // `go_on` is polled when tasks are taken, about 20 times per second; null: never.
  Member(std::size_t rank, Tasks& tasks, const std::function<bool()>* go_on)
      : rank_(rank), tasks_(tasks), go_on_(go_on) {}

  std::size_t rank() const { return rank_; }
  std::optional<std::size_t> take();

 private:
  using Clock = std::chrono::steady_clock;

  const std::size_t rank_;
  Tasks& tasks_;
  const std::function<bool()>* const go_on_;
  Clock::time_point asked_ = Clock::now();
  bool busy_ = false;
};

// Calls work(member) on `threads` threads, each on its own core (placement.h), and returns when all
// calls have returned. The calling thread is number 0 and polls `go_on`; once that returns false,
// no more tasks are handed out, and the result is false. An exception of `work` stops all threads
// and is rethrown here.
bool share_tasks(std::size_t threads, std::size_t tasks, std::span<const std::size_t> after,
                 const std::function<bool()>& go_on, const std::function<void(Member&)>& work);

}  // namespace asyncopt
