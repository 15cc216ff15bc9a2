#include "asyncopt/models/linear/round.h"

#include "asyncopt/base/wait.h"

namespace asyncopt::linear {
namespace {

// A few microseconds: the work of several examples, and the cost of a sleep and a wake-up. A longer
// wait means that the thread with the turn is not running, so this one sleeps and frees its core.
// Yielding does not help: the scheduler may give the core to any thread, for milliseconds.
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

// Workers leave only during their own turn, so the next one is present when it gets the turn.
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
