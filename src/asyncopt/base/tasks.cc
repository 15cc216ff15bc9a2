#include "asyncopt/base/tasks.h"

#include <exception>
#include <thread>
#include <vector>

#include "asyncopt/base/placement.h"
#include "asyncopt/base/wait.h"

namespace asyncopt {
namespace {

constexpr auto kAskEvery = std::chrono::milliseconds(50);
constexpr int kSpins = 1000;  // about 30 us, the time of a wake-up

}  // namespace

std::optional<std::size_t> Tasks::take() {
  const std::size_t task = next_.fetch_add(1, std::memory_order_relaxed);
  if (task >= count_) return std::nullopt;
  const std::size_t before = after_.empty() ? 0 : after_[task];
  for (int spins = 0; ended_.load(std::memory_order_acquire) < before && !stopped(); ++spins)
    spins < kSpins ? pause() : std::this_thread::yield();
  return stopped() ? std::nullopt : std::optional(task);
}

std::optional<std::size_t> Member::take() {
  if (busy_) tasks_.end();
  if (go_on_ != nullptr && Clock::now() - asked_ >= kAskEvery) {
    if (!(*go_on_)()) tasks_.stop();
    asked_ = Clock::now();
  }
  const auto task = tasks_.take();
  busy_ = task.has_value();
  return task;
}

bool share_tasks(std::size_t threads, std::size_t tasks, std::span<const std::size_t> after,
                 const std::function<bool()>& go_on, const std::function<void(Member&)>& work) {
  Tasks shared(tasks, after);
  std::vector<std::exception_ptr> thrown(threads);
  const auto run = [&](std::size_t rank, const std::function<bool()>* ask) {
    Member member(rank, shared, ask);
    try {
      work(member);
    } catch (...) {
      thrown[rank] = std::current_exception();
      shared.stop();
    }
  };
  {
    const Placement placement;
    std::vector<std::jthread> others;  // joined by the destructor
    others.reserve(threads - 1);
    try {
      for (std::size_t rank = 1; rank < threads; ++rank) {
        others.emplace_back(run, rank, nullptr);
        placement.put(others.back().native_handle(), rank);
      }
    } catch (...) {  // a thread failed to start: stop the others before they do all tasks
      shared.stop();
      throw;
    }
    run(0, &go_on);
  }
  for (const std::exception_ptr& error : thrown)
    if (error) std::rethrow_exception(error);
  return !shared.stopped();
}

}  // namespace asyncopt
