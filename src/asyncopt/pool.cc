#include "asyncopt/pool.h"

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace asyncopt {
namespace {

class Pool {
 public:
  ~Pool() {
    stop_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  bool try_run(std::size_t count, std::size_t threads,
               const std::function<void(std::size_t)>& work) {
    const std::unique_lock one_caller(busy_, std::try_to_lock);
    if (!one_caller) return false;
    while (threads_.size() + 1 < threads) {
      threads_.emplace_back(
          [this, id = threads_.size(), seen = generation_.load(std::memory_order_relaxed)] {
            serve(id, seen);
          });
    }
    helpers_ = threads - 1;
    work_ = &work;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    left_.store(static_cast<std::uint32_t>(threads_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);  // pairs with the acquire in serve
    generation_.notify_all();
    take();
    // The helpers' writes are seen after the acquire of the last one's release.
    for (std::uint32_t left = left_.load(std::memory_order_acquire); left != 0;
         left = left_.load(std::memory_order_acquire))
      left_.wait(left, std::memory_order_acquire);
    return true;
  }

 private:
  void take() {
    for (;;) {
      const std::size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count_) return;
      (*work_)(i);
    }
  }

  void serve(std::size_t id, std::uint32_t seen) {
    for (;;) {
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      if (id < helpers_) take();
      if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_all();
    }
  }

  std::mutex busy_;
  std::vector<std::thread> threads_;
  std::size_t helpers_ = 0;
  const std::function<void(std::size_t)>* work_ = nullptr;
  std::size_t count_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint32_t> left_{0};
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
};

std::atomic<Pool*> pool{nullptr};

Pool& instance() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Threads do not survive a fork: the child forgets them (and leaks the parent's object).
    pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool, std::memory_order_relaxed); });
    pool.store(new Pool, std::memory_order_relaxed);
    std::atexit([] { delete pool.exchange(nullptr); });
  });
  return *pool.load(std::memory_order_relaxed);
}

}  // namespace

void parallel_for(std::size_t count, std::size_t threads,
                  const std::function<void(std::size_t)>& work) {
  if (threads > count) threads = count;
  if (threads > 1 && instance().try_run(count, threads, work)) return;
  for (std::size_t i = 0; i < count; ++i) work(i);
}

}  // namespace asyncopt
