#include "asyncopt/probe/probe.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "asyncopt/base/atomic.h"
#include "asyncopt/base/memory.h"
#include "asyncopt/base/robust_mutex.h"
#include "asyncopt/base/wait.h"
#include "asyncopt/kernels/kernels.h"

namespace asyncopt {
namespace {

constexpr std::uint64_t kPatience = 10'000'000'000;  // ns: timeout of a lock that is held 0.2 ms
constexpr std::uint64_t kAsleep = 200'000;           // ns: after so long a waiter is asleep

double seconds(std::uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

// The mean of the middle half: finer than the clock's ticks, and robust to interruptions.
double midmean(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  const std::size_t quarter = values.size() / 4;
  double sum = 0;
  for (std::size_t i = quarter; i < values.size() - quarter; ++i) sum += values[i];
  return sum / static_cast<double>(values.size() - 2 * quarter);
}

// Turns of two threads. Writes of one before `pass` are visible to the other after `wait`.
class Baton {
 public:
  struct Left {};  // thrown in a thread that waits for one that has failed

  void wait(std::uint32_t me) const {
    // Acquire: pairs with the release in pass.
    while (turn_.load(std::memory_order_acquire) != me) spin();
  }
  void pass(std::uint32_t me) { turn_.store(1 - me, std::memory_order_release); }

  // One pause of a wait for the other thread.
  void spin() const {
    if (left_.load(std::memory_order_relaxed)) throw Left();
    pause();
  }
  void leave() { left_.store(true, std::memory_order_relaxed); }

 private:
  std::atomic<bool> left_{false};
  alignas(kCacheLine) std::atomic<std::uint32_t> turn_{0};
};

int bind(std::size_t processor) {
  if (processor >= CPU_SETSIZE) return EINVAL;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  return pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

// Runs act(0, baton) and act(1, baton), each in a thread bound to its processor. Rethrows the first
// exception.
template <class Act>
void duet(const Processors& processors, Act act) {
  if (processors[0] == processors[1])
    throw std::invalid_argument("processors: expected two, got " + std::to_string(processors[0]) +
                                " twice");
  Baton baton;
  std::atomic<int> bound{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const auto run = [&](std::uint32_t me) {
    try {
      if (const int error = bind(processors[me]); error != 0)
        throw std::system_error(error, std::generic_category(), "binding a thread to a processor");
      ++bound;
      while (bound < 2) baton.spin();
      act(me, baton);
    } catch (const Baton::Left&) {
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
      baton.leave();
    }
  };
  {
    const std::jthread other(run, 1u);  // joined by the destructor
    try {
      std::jthread(run, 0u).join();
    } catch (...) {  // the second thread failed to start
      baton.leave();
      throw;
    }
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

double transfer_seconds(const Processors& processors) {
  constexpr int kRounds = 100, kSamples = 200;
  std::vector<double> samples;
  duet(processors, [&](std::uint32_t me, Baton& baton) {
    for (int sample = 0; sample < kSamples; ++sample) {
      const std::uint64_t start = now_ns();
      for (int i = 0; i < kRounds; ++i) {
        baton.wait(me);
        baton.pass(me);
      }
      if (me == 0) samples.push_back(seconds(now_ns() - start) / (2 * kRounds));
    }
  });
  return midmean(samples);
}

// Time of one call, averaged over many.
template <class Call>
double call_seconds(Call call) {
  constexpr int kRounds = 1'000, kSamples = 16;
  std::vector<double> samples;
  for (int sample = 0; sample < kSamples; ++sample) {
    const std::uint64_t start = now_ns();
    for (int i = 0; i < kRounds; ++i) call();
    samples.push_back(seconds(now_ns() - start) / kRounds);
  }
  return midmean(samples);
}

// Measures `wake` and `wake_call`: thread 0 holds the lock until thread 1 sleeps for it.
void time_waking(const Processors& processors, RobustMutex& mutex, WordCosts& costs) {
  constexpr int kRounds = 31;
  std::vector<double> wakes, calls;
  std::uint64_t released = 0;  // written before the release, read by the next holder
  duet(processors, [&](std::uint32_t me, Baton& baton) {
    Tally tally;
    for (int i = 0; i < kRounds; ++i) {
      baton.wait(me);
      if (me == 0) {
        mutex.lock(kPatience, tally);
        baton.pass(me);  // the other thread goes to sleep
        for (const std::uint64_t end = now_ns() + kAsleep; now_ns() < end;) pause();
        released = now_ns();
        mutex.unlock();
        calls.push_back(seconds(now_ns() - released));
      } else {
        mutex.lock(kPatience, tally);
        wakes.push_back(seconds(now_ns() - released));
        mutex.unlock();
        baton.pass(me);
      }
    }
  });
  costs.wake = midmean(wakes);
  costs.wake_call = midmean(calls);
}

// Two versions of a block, with a gradient and a snapshot per worker.
class SharedLines {
 public:
  explicit SharedLines(const Touches& touches)
      : touches_(touches), kernel_(*find_kernel("sgd", "float32", "float32")) {
    for (Memory& memory : memories_) memory = allocate(touches.lines);
    double hyper[kMaxHyper] = {1e-6};  // the learning rate
    kernel_.prepare(hyper, nullptr, coef_);
  }

  // Calls each(span) for the spans of push number `i`.
  template <class Each>
  void for_each_span(std::size_t i, std::uint32_t me, Each each) {
    const std::size_t first = i * touches_.spans % touches_.starts.size();
    for (const std::int64_t start : touches_.starts.subspan(first, touches_.spans)) {
      const std::size_t at = static_cast<std::size_t>(start) * kCacheLine;
      each(Span{data(0) + at, grad(me) + at, {}, touches_.width * kCacheLine / sizeof(float), 0});
    }
  }
  void update(std::size_t i, std::uint32_t me) {
    for_each_span(i, me, [this](const Span& span) { kernel_.loops.racy(coef_, span); });
  }
  void exchange(std::size_t i, std::uint32_t me) {
    Tally tally;
    for_each_span(i, me, [&](const Span& span) { kernel_.loops.atomic(coef_, span, tally); });
  }
  void check(std::size_t i, std::uint32_t me) {
    for_each_span(i, me, [this](const Span& span) {
      static_cast<void>(kernel_.loops.finite(span.grad, span.n));
    });
  }
  void copy(int from, int to) { std::memcpy(data(to), data(from), bytes()); }
  void snapshot(std::uint32_t me) { copy_out(data(0), memories_[4 + me].get(), bytes()); }
  // Writes the whole block.
  void touch() { std::memset(data(0), 0, bytes()); }

  std::size_t lines() const { return touches_.lines; }
  std::size_t touched() const { return touches_.width * touches_.spans; }

 private:
  struct Free {
    void operator()(std::byte* at) const { ::operator delete(at, std::align_val_t{kPage}); }
  };
  using Memory = std::unique_ptr<std::byte, Free>;

  static Memory allocate(std::size_t lines) {
    auto* const at =
        static_cast<std::byte*>(::operator new(lines * kCacheLine, std::align_val_t{kPage}));
    std::memset(at, 0, lines * kCacheLine);
    return Memory(at);
  }
  std::size_t bytes() const { return touches_.lines * kCacheLine; }
  std::byte* data(int version) { return memories_[static_cast<std::size_t>(version)].get(); }
  std::byte* grad(std::uint32_t me) { return memories_[2 + me].get(); }

  Touches touches_;
  const Kernel& kernel_;
  alignas(16) std::byte coef_[kMaxCoef] = {};
  Memory memories_[6];  // two versions, a gradient and a snapshot for each worker
};

// Passes the block back and forth. Each turn times first(), on lines that the other thread wrote
// last, and then again(), on lines last written here. Returns the costs per line of `lines`.
template <class First, class Again>
LineCost time_lines(const Processors& processors, std::size_t lines, std::size_t cleared,
                    First first, Again again) {
  // More rounds for fewer lines.
  const std::size_t rounds =
      std::clamp((std::size_t{1} << 21) / cleared, std::size_t{7}, std::size_t{400});
  std::vector<double> remote[2], own[2], clock[2];
  duet(processors, [&](std::uint32_t me, Baton& baton) {
    for (std::size_t i = 0; i < rounds; ++i) {
      baton.wait(me);
      const std::uint64_t start = now_ns();
      first(i, me);
      const std::uint64_t between = now_ns();
      again(i, me);
      const std::uint64_t end = now_ns();
      const std::uint64_t over = now_ns();
      baton.pass(me);
      if (i == 0) continue;  // first access to memory and code
      remote[me].push_back(seconds(between - start));
      own[me].push_back(seconds(end - between));
      clock[me].push_back(seconds(over - end));
    }
  });
  const auto per_line = [&](std::vector<double>(&of)[2]) {
    double sum = 0;
    for (int me = 0; me < 2; ++me) sum += std::max(midmean(of[me]) - midmean(clock[me]), 0.0);
    return sum / (2 * static_cast<double>(lines));
  };
  return {per_line(own), per_line(remote)};
}

void check_touches(const Touches& t) {
  if (t.lines == 0 || t.width == 0 || t.spans == 0 || t.starts.empty() ||
      t.starts.size() % t.spans != 0)
    throw std::invalid_argument("touches: expected lines, and starts in parts of spans");
  for (const std::int64_t start : t.starts)
    if (start < 0 || t.width > t.lines || static_cast<std::size_t>(start) > t.lines - t.width)
      throw std::invalid_argument("starts: expected " + std::to_string(t.width) + " of " +
                                  std::to_string(t.lines) + " lines, got those from " +
                                  std::to_string(start));
}

}  // namespace

WordCosts probe_words(const Processors& processors) {
  RobustMutex mutex;
  mutex.create();
  WordCosts costs{};
  costs.transfer = transfer_seconds(processors);
  Tally tally;
  costs.lock = call_seconds([&] { const RobustLock lock(mutex, kPatience, tally); });
  const std::atomic<std::uint32_t> word{0};
  costs.sleep = call_seconds([&] { futex_wait(word, 1, kSliceNs); });
  time_waking(processors, mutex, costs);
  return costs;
}

LineCosts probe_lines(const Processors& processors, const Touches& touches) {
  check_touches(touches);
  SharedLines block(touches);
  const auto timed = [&](std::size_t lines, auto first, auto again) {
    return time_lines(processors, lines, block.lines(), first, again);
  };
  const auto update = [&](std::size_t i, std::uint32_t me) { block.update(i, me); };
  const auto exchange = [&](std::size_t i, std::uint32_t me) { block.exchange(i, me); };
  const auto check = [&](std::size_t i, std::uint32_t me) { block.check(i, me); };
  LineCosts costs{};
  costs.update = timed(block.touched(), update, update);
  costs.exchange = timed(block.touched(), exchange, exchange);
  costs.check = timed(block.touched(), check, check).own;
  // Copies there and back: the other core wrote both versions before the first copy, this core both
  // before the second.
  costs.copy = timed(
      block.lines(), [&](std::size_t, std::uint32_t) { block.copy(0, 1); },
      [&](std::size_t, std::uint32_t) { block.copy(1, 0); });
  const auto snapshot = [&](std::size_t, std::uint32_t me) { block.snapshot(me); };
  costs.snapshot.remote =
      timed(block.lines(), snapshot, [&](std::size_t, std::uint32_t) { block.touch(); }).remote;
  costs.snapshot.own = timed(block.lines(), snapshot, snapshot).own;
  return costs;
}

}  // namespace asyncopt
