// Lazy dense updates for tables with sparse gradients.
//
// With sparse_updates="dense", a row must end where dense steps would have taken it, but is written
// only when a gradient names it. The journal keeps, per row, the number of pushes applied so far,
// and a ring of the coefficients of recent pushes. Before a row is used, its missed pushes are
// replayed (`catch_up`, missed_steps.h).
//
// Concurrency: a push increments `started`, writes its coefficients to the ring, applies its
// gradient, then increments `finished`. A row replays only finished pushes, so every push is
// applied to every row exactly once, in any order of workers. A replay is claimed by
// compare-and-swap on the row's counter.
//
// Crash safety: a worker killed between claim and write loses that replay. Rows that its unfinished
// push had written stay one push ahead.
//
// The ring holds the last `records` pushes. Each push also replays a fixed share of all rows, round
// robin, so every row catches up four times within that window. All-zero memory is a valid, empty
// journal. It is plain memory, shared like any state.
#pragma once

#include <cstddef>
#include <cstdint>

#include "asyncopt/base/atomic.h"
#include "asyncopt/kernels/kernels.h"

namespace asyncopt {

// The step of one push: its rule's coefficients, and what the rule's linear_after returned.
struct Record {
  alignas(16) std::byte coef[kMaxCoef] = {};
  double linear_after = 0;
};

// A view of a journal in shared memory.
class Journal {
 public:
  static std::size_t bytes(std::size_t rows, std::size_t coef_bytes);
  // Initializes a journal in which no row has missed a push. `at_rest`: no row has had a gradient.
  static void open(std::byte* at, std::size_t bytes, bool at_rest);
  // `at` is aligned to a cache line.
  Journal(std::byte* at, std::size_t rows, std::size_t coef_bytes);

  std::size_t rows() const { return rows_; }
  // The number of pushes before the oldest one whose record is still in the ring at `now`.
  std::uint64_t oldest(std::uint64_t now) const { return now > records_ ? now - records_ : 0; }

  // Counts a push and returns its number (1, 2, ...). A step that never becomes linear marks all
  // rows as active.
  std::uint64_t start(const Record& record) const;
  // Pairs with the acquire in finished(): a reader of the count sees the record.
  void finish() const { fetch_add_release(word(kFinished), std::uint64_t{1}); }
  std::uint64_t finished() const { return load_acquire(word(kFinished)); }
  // Reads a push's record. False if it is not, or no longer, in the ring; `record` is then
  // unspecified.
  bool read(std::uint64_t number, Record& record) const;

  // The rows that push `number` replays besides those that it names.
  struct Range {
    std::size_t begin = 0, end = 0;
  };
  Range share(std::uint64_t number) const;

  // True if `now` pushes have been applied to all rows.
  bool is_caught_up(std::uint64_t now) const { return load_relaxed(word(kCaughtUp)) >= now; }
  void set_caught_up(std::uint64_t now) const { raise(kCaughtUp, now); }
  // Records that a gradient, or a step that never becomes linear, was applied to all rows in push
  // `now`, or between it and the next.
  void mark_active(std::uint64_t now) const { raise(kActive, now + 1); }

  // The pushes that one row missed, and that the claimer replays.
  struct Claim {
    std::uint64_t applied;  // pushes applied before; the row missed those from there to `now`
    std::uint64_t idle;     // applied pushes since the row's last gradient; at most kRest
  };
  // Cap of a row's count of idle steps.
  static constexpr std::uint64_t kRest = 0xFFFF;

  std::uint64_t applied(std::size_t row) const {
    return load_relaxed(row_words_ + row) >> kIdleBits;
  }
  // Claims the replay of a row's missed pushes up to `now`. False if it missed none.
  bool claim(std::size_t row, std::uint64_t now, Claim& claim) const;
  // Records that a push applies its gradient to the row.
  void touch(std::size_t row) const;

 private:
  enum Word { kStarted, kFinished, kCaughtUp, kActive };
  static constexpr std::size_t kHead = 64;  // bytes
  static constexpr unsigned kIdleBits = 16;

  std::uint64_t* word(Word which) const { return reinterpret_cast<std::uint64_t*>(at_) + which; }
  void raise(Word which, std::uint64_t value) const;
  std::uint64_t* record_at(std::uint64_t number) const;

  std::byte* at_;
  std::size_t rows_, coef_words_, records_;
  std::uint64_t* row_words_;  // applied << 16 | kRest - idle: zero is a row at rest
};

}  // namespace asyncopt
