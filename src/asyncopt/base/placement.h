// Placement of new threads on separate cores.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <cstddef>
#include <vector>

namespace asyncopt {

// Moves each new thread to its own core. The kernel may queue a new thread on its creator's core,
// and a pass (20 ms) may end before the kernel finds an idle core: on a virtual machine with two
// cores, two threads then share one. The thread is not bound: if other programs use the core, the
// kernel may move it again.
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

  // Moves a thread to the core that is `rank` after the caller's, among those that the caller may
  // use. If the kernel refuses, the thread stays on its core.
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
  std::size_t mine_ = 0;  // index of the caller's core in cpus_
};

}  // namespace asyncopt
