// Round-robin turns: workers change the weights one after the other, always in the same order.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "asyncopt/base/memory.h"
#include "asyncopt/base/numbers.h"

namespace asyncopt::linear {

// The turn passes from rank to rank and skips absent ones.
class Round {
 public:
  class Seat;

  explicit Round(std::size_t workers) : places_(workers) {}

 private:
  enum State : std::uint32_t { kWaits, kSleeps, kTurn };

  struct alignas(kCacheLine) Place {  // on a cache line of its own
    std::atomic<std::uint32_t> state = kWaits;
    std::atomic<bool> taken = false;
  };

  std::vector<Place> places_;
  std::mutex door_;  // held to enter or leave
  std::size_t here_ = 0;
};

// A worker's membership in a round. The destructor waits for the worker's turn and passes it on.
class Round::Seat {
 public:
  Seat(Round& round, std::size_t rank);
  ~Seat();
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;

  void wait();
  void pass();

 private:
  Round& round_;
  const std::size_t rank_;
  Place& mine_;
};

// Holds one turn: the constructor waits for it. Without a seat it does nothing.
class Turn {
 public:
  ASYNCOPT_INLINE explicit Turn(Round::Seat* seat) : seat_(seat) {
    if (seat_ != nullptr) seat_->wait();
  }
  ASYNCOPT_INLINE ~Turn() {
    if (seat_ != nullptr) seat_->pass();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Round::Seat* const seat_;
};

}  // namespace asyncopt::linear
