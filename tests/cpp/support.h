// Memory, stores, threads and processes for the tests.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <latch>
#include <random>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asyncopt/push/journal.h"
#include "asyncopt/push/push.h"
#include "asyncopt/store/sync_info.h"
#include "asyncopt/sync/sync.h"
#include "check.h"

namespace asyncopt::test {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
// Sanitizers make everything 3 to 50 times slower.
constexpr int count(int plain, int sanitized) { return kSanitized ? sanitized : plain; }

// Number of random trials, and seconds for them: 50 times as many and as long with
// ASYNCOPT_CHAOS=long in the environment, as `make test-long` sets it.
inline std::uint64_t long_run() {
  const char* const chaos = std::getenv("ASYNCOPT_CHAOS");
  return chaos != nullptr && std::string_view(chaos) == "long" ? 50 : 1;
}
inline std::uint64_t often(std::uint64_t plain, std::uint64_t sanitized) {
  return (kSanitized ? sanitized : plain) * long_run();
}
inline void set_deadline() { alarm(static_cast<unsigned>(280 * long_run())); }

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Zeroed pages that forked children share.
class Mapping {
 public:
  explicit Mapping(std::size_t bytes)
      : bytes_(bytes),
        at_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    CHECK(at_ != MAP_FAILED);
  }
  ~Mapping() { munmap(at_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void* data() const { return at_; }
  std::size_t size() const { return bytes_; }

 private:
  std::size_t bytes_;
  void* at_;
};

inline const Kernel& kernel_of(std::string_view rule, std::string_view dtype,
                               std::string_view state_dtype = "") {
  const Kernel* const k = find_kernel(rule, dtype, state_dtype.empty() ? dtype : state_dtype);
  CHECK(k != nullptr);
  return *k;
}

// A group with these hyperparameters; those not named are 0.
using Named = std::initializer_list<std::pair<std::string_view, double>>;
inline Group group_of(const Kernel& kernel, Named values) {
  Group group;
  for (const auto& [name, value] : values) {
    std::size_t i = 0;
    while (i < kernel.hyper.size() && name != kernel.hyper[i]) ++i;
    CHECK(i < kernel.hyper.size());
    group.hyper[i] = value;
  }
  return group;
}

// A segment with its tensors, in memory of its own that forked children share.
struct Store {
  struct Tensor {
    const Kernel* kernel;
    std::size_t n;
    std::size_t journal_rows = 0;  // rows of a table with lazy updates
  };

  SegmentConfig config;
  const std::vector<Block> blocks;  // without gradients
  const Mapping memory;
  const Segment segment;

  Store(std::string_view sync, std::size_t workers, const std::vector<Tensor>& tensors,
        double lock_timeout = 60)
      : config{.sync = std::string(sync),
               .workers = workers,
               .lock_timeout_ns = static_cast<std::uint64_t>(lock_timeout * 1e9),
               .layout_hash = 0x1234},
        blocks(place(tensors, config)),
        memory(Segment::bytes_needed(config)),
        segment(Segment::create(memory.data(), memory.size(), config)) {}

  // The newest whole version; only leashed has more than copy 0.
  std::byte* newest() const {
    return segment.data(segment.header().latest.load(std::memory_order_acquire) & 0xFFFF);
  }
  template <class T>
  T* param(std::size_t i = 0) const {
    return reinterpret_cast<T*>(newest() + blocks[i].param);
  }
  template <class T>
  T* slot(std::size_t k, std::size_t i = 0) const {
    return reinterpret_cast<T*>(newest() + blocks[i].slots[k]);
  }
  double* scalars(std::size_t i = 0) const {
    return reinterpret_cast<double*>(newest() + blocks[i].scalars);
  }
  std::uint64_t version() const { return segment.version(); }

 private:
  static std::vector<Block> place(const std::vector<Tensor>& tensors, SegmentConfig& config) {
    std::vector<Block> placed(tensors.size());
    const auto take = [&config](std::size_t bytes) {
      const std::uint64_t at = config.data_bytes;
      config.data_bytes += (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
      return at;
    };
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      placed[i].kernel = tensors[i].kernel;
      placed[i].n = tensors[i].n;
      placed[i].param = take(tensors[i].n * tensors[i].kernel->param_bytes);
    }
    config.param_bytes = config.data_bytes;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Kernel& k = *tensors[i].kernel;
      for (std::size_t s = 0; s < k.slots.size(); ++s)
        placed[i].slots[s] = take(tensors[i].n * k.state_bytes);
      placed[i].scalars = take(k.scalars.size() * sizeof(double));
      if (const std::size_t rows = tensors[i].journal_rows; rows > 0) {
        placed[i].width = tensors[i].n / rows;
        placed[i].journal = take(Journal::bytes(rows, k.coef_bytes));
        placed[i].journal_rows = rows;
      }
    }
    return placed;
  }
};

// Calls body(const SyncInfo&) for every sync of the build.
template <class Body>
void for_each_sync(Body body) {
  for (std::size_t i = 0; i < sync_count(); ++i) {
    current_case = sync_info(i).name;
    body(sync_info(i));
  }
  current_case.clear();
}

// Calls work(0) ... work(n - 1), each in a thread of its own, all released at once.
template <class Work>
void run_threads(std::size_t n, Work work) {
  std::latch ready(static_cast<std::ptrdiff_t>(n));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < n; ++i)
    threads.emplace_back([&ready, &work, i] {
      ready.arrive_and_wait();
      work(i);
    });
  for (std::thread& t : threads) t.join();
}

// Runs body in a forked child, which ends when body returns and does not outlive this process.
template <class Body>
pid_t fork_child(Body body) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    body();
    _exit(0);
  }
  return child;
}

// The status of a child that ends (or, with WUNTRACED, stops) within `deadline` seconds.
inline int wait_for(pid_t child, double deadline, int options = 0) {
  const auto start = Clock::now();
  int status = 0;
  for (;;) {
    const pid_t found = waitpid(child, &status, options | WNOHANG);
    CHECK(found >= 0);
    if (found == child) return status;
    if (seconds_since(start) > deadline) {
      kill(child, SIGKILL);
      fail(__FILE__, __LINE__, "a child did not end in time");
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

// Numbers whose absolute value is in [0.25, 1], and so exact as a bfloat16's 8 bits and never zero.
class Numbers {
 public:
  explicit Numbers(std::uint32_t seed) : engine_(seed) {}
  double positive() { return static_cast<double>(64 + engine_() % 193) / 256; }
  double operator()() { return engine_() % 2 == 0 ? positive() : -positive(); }

 private:
  std::mt19937 engine_;
};

// Reads and writes element i of an array whose dtype is known by name.
inline double get(std::string_view dtype, const void* array, std::size_t i) {
  if (dtype == "float32") return static_cast<const float*>(array)[i];
  if (dtype == "float64") return static_cast<const double*>(array)[i];
  if (dtype == "bfloat16")
    return static_cast<double>(widen(static_cast<const bfloat16*>(array)[i]));
  fail(__FILE__, __LINE__, "the tests do not know this dtype: " + std::string(dtype));
}
inline void put(std::string_view dtype, void* array, std::size_t i, double value) {
  if (dtype == "float32")
    static_cast<float*>(array)[i] = static_cast<float>(value);
  else if (dtype == "float64")
    static_cast<double*>(array)[i] = value;
  else if (dtype == "bfloat16")
    static_cast<bfloat16*>(array)[i] = narrow<bfloat16>(static_cast<float>(value), 0);
  else
    fail(__FILE__, __LINE__, "the tests do not know this dtype: " + std::string(dtype));
}

// The bfloat16 next below (or at) and next above (or at) a finite value.
inline double bfloat16_below(double x) {
  const double unit = std::ldexp(1.0, std::ilogb(x == 0 ? 1 : x) - 7);
  return std::floor(x / unit) * unit;
}
inline double bfloat16_above(double x) { return -bfloat16_below(-x); }

// Whether `stored` is a possible rounding to the dtype of a value within `tolerance` of `exact`.
inline bool rounds_to(std::string_view dtype, double exact, double stored, double tolerance) {
  if (dtype != "bfloat16") return std::abs(stored - exact) <= tolerance;
  return bfloat16_below(exact - tolerance) <= stored && stored <= bfloat16_above(exact + tolerance);
}

}  // namespace asyncopt::test
