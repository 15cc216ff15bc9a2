#include "asyncopt/models/linear/round.h"

#include "asyncopt/base/wait.h"

namespace asyncopt::linear {
namespace {

// Some microseconds: several examples' work, and what it costs to sleep and be woken. Whoever has
// waited for longer waits for a thread that does not run, to which this one's core is of more use.
// Yielding it instead is no help: the scheduler gives it to anybody, for milliseconds.
constexpr int kSpins = 100;

}  // namespace

Round::Seat::Seat(Round& round, std::size_t rank)
    : round_(round), rank_(rank), mine_(round.places_[rank]) {
  const std::lock_guard lock(round_.door_);
  mine_.taken.store(true, std::memory_order_relaxed);
  if (round_.here_++ == 0) mine_.state.store(kTurn, std::memory_order_relaxed);
}

Round::Seat::~Seat() {
  wait();
  const std::lock_guard lock(round_.door_);
  mine_.taken.store(false, std::memory_order_relaxed);
  --round_.here_;
  pass();
}

void Round::Seat::wait() {
  for (int i = 0; i < kSpins; ++i) {
    if (mine_.state.load(std::memory_order_acquire) == kTurn) return;
    pause();
  }
  std::uint32_t seen = kWaits;
  mine_.state.compare_exchange_strong(seen, kSleeps, std::memory_order_relaxed);
  while (mine_.state.load(std::memory_order_acquire) == kSleeps)
    futex_wait(mine_.state, kSleeps, kSliceNs);
}

// Only who has the turn goes, so that whom it is given to is there.
void Round::Seat::pass() {
  mine_.state.store(kWaits, std::memory_order_relaxed);
  const std::size_t size = round_.places_.size();
  for (std::size_t i = 1; i <= size; ++i) {
    Place& next = round_.places_[(rank_ + i) % size];
    if (!next.taken.load(std::memory_order_relaxed)) continue;
    // Release: pairs with wait's acquire.
    if (next.state.exchange(kTurn, std::memory_order_release) == kSleeps)
      futex_wake_all(next.state);
    return;
  }
}

}  // namespace asyncopt::linear
