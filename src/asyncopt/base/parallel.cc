#include "asyncopt/base/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <exception>

namespace asyncopt {
namespace {

std::atomic<bool> forked{false}, forks_expected{false};
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  forked.store(!forks_expected.exchange(false, std::memory_order_relaxed),
               std::memory_order_relaxed);
});

// Entry points of the OpenMP runtime, looked up by name: linking a runtime could load a second one,
// with its own threads, beside the one in the process. The interface is GNU's; LLVM's and Intel's
// runtimes provide it too.
struct OpenMp {
  void (*run)(void (*region)(void*), void* data, unsigned threads, unsigned flags);
  int (*thread)();
  int (*team)();

  bool usable() const { return run != nullptr && thread != nullptr && team != nullptr; }
};

template <class F>
void find(F*& function, const char* name) {
  function = reinterpret_cast<F*>(dlsym(RTLD_DEFAULT, name));
}

const OpenMp& openmp() {
  static const OpenMp found = [] {
    OpenMp omp{};
    find(omp.run, "GOMP_parallel");
    find(omp.thread, "omp_get_thread_num");
    find(omp.team, "omp_get_num_threads");
    return omp;
  }();
  return found;
}

// One parallel_for. It carries exceptions to the caller: one that leaves a parallel region ends the
// process.
class Job {
 public:
  Job(std::size_t count, const std::function<void(std::size_t)>& work)
      : count_(count), work_(work) {}

  void range(std::size_t index, std::size_t of) noexcept {
    try {
      for (std::size_t i = index * count_ / of; i < (index + 1) * count_ / of; ++i) {
        if (failed_.load(std::memory_order_relaxed)) return;
        work_(i);
      }
    } catch (...) {
      // Read by the caller after the region's end, which orders it.
      if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

 private:
  const std::size_t count_;
  const std::function<void(std::size_t)>& work_;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
};

}  // namespace

void parallel_for(std::size_t count, std::size_t threads,
                  const std::function<void(std::size_t)>& work) {
  Job job(count, work);
  threads = std::min(threads, count);
  const OpenMp& omp = openmp();
  if (threads < 2 || !omp.usable() || forked.load(std::memory_order_relaxed)) {
    job.range(0, 1);
    job.rethrow();
    return;
  }
  // The team may be smaller than requested.
  constexpr auto region = [](void* data) {
    static_cast<Job*>(data)->range(static_cast<std::size_t>(openmp().thread()),
                                   static_cast<std::size_t>(openmp().team()));
  };
  omp.run(region, &job, static_cast<unsigned>(threads), 0);
  job.rethrow();
}

void expect_forks() {
  forked.store(false, std::memory_order_relaxed);
  forks_expected.store(true, std::memory_order_relaxed);
}

}  // namespace asyncopt
