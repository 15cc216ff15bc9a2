// Threads on cores of their own from their first instruction on.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <cstddef>
#include <vector>

namespace asyncopt {

// A new thread may be queued behind the one that made it, and a pass ends (20 ms) before the kernel
// would notice that another core has nothing to do: on a virtual machine with two cores, two
// threads then share one. So each is moved as soon as it is there. It is not bound: where other
// programs have the core, the kernel may move it on.
class Placement {
 public:
  Placement() {
    if (sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) return;
    for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed_)) continue;
      if (static_cast<int>(cpu) == sched_getcpu()) mine_ = cpus_.size();
      cpus_.push_back(cpu);
    }
  }

  // Puts a thread on the core that is `rank` after the caller's, among those that the caller may
  // use. Where that is refused, the thread stays where it is.
  void put(pthread_t thread, std::size_t rank) const {
    if (cpus_.size() < 2) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpus_[(mine_ + rank) % cpus_.size()], &one);
    if (pthread_setaffinity_np(thread, sizeof one, &one) == 0)
      pthread_setaffinity_np(thread, sizeof allowed_, &allowed_);
  }

 private:
  cpu_set_t allowed_{};
  std::vector<std::size_t> cpus_;
  std::size_t mine_ = 0;  // the caller's, among them
};

}  // namespace asyncopt
