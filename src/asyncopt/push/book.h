// The book of a table whose rows are updated only when a gradient names them, and yet shall end as
// if every step had updated every row: how many steps each row has been paid, and with which
// coefficients the latest steps were taken.
//
// A push that names some rows is counted twice: as `started`, when it writes its coefficients into
// a ring of records, and as `finished`, when it has applied its gradient. A row owes the finished
// pushes that it has not been paid, and whoever touches it pays. To count is enough: a push that is
// between its two counts will pay the rows that it names itself, so that each row is paid once for
// each push, in whatever order workers come to it, and owes nothing when all is paid and no push is
// on its way. The payment is claimed by compare-exchange before it is made, so that no two workers
// make it. A worker that is killed takes with it the payment that it had claimed and not made; the
// rows that its push had reached stay one ahead.
//
// Coefficients are remembered for the last `records` pushes only. Each push therefore also pays a
// small share of all rows, in turn, so that all have been paid four times in that span.
//
// All zero is a valid book: no pushes, and rows at rest. It is plain memory, shared like any state.
#pragma once

#include <cstddef>
#include <cstdint>

#include "asyncopt/base/atomic.h"
#include "asyncopt/kernels/kernels.h"

namespace asyncopt {

// How a push took its step: its rule's coefficients and what the rule's settles_after says.
struct Record {
  alignas(16) std::byte coef[kMaxCoef] = {};
  double settles_after = 0;
};

// A view of one.
class Book {
 public:
  static std::size_t bytes(std::size_t rows, std::size_t coef_bytes);
  // Makes memory a book in which nothing is owed. At rest: no row has had a gradient.
  static void open(std::byte* at, std::size_t bytes, bool at_rest);
  // `at` is aligned to a cache line.
  Book(std::byte* at, std::size_t rows, std::size_t coef_bytes);

  std::size_t rows() const { return rows_; }
  // The oldest push before `now` whose record is still there.
  std::uint64_t oldest(std::uint64_t now) const { return now > records_ ? now - records_ : 0; }

  // Counts a push; returns its number (1, 2, ...). One that never settles stirs all rows.
  std::uint64_t start(const Record& record) const;
  // Pairs with the acquire in finished(): who sees the count sees the record.
  void finish() const { fetch_add_release(word(kFinished), std::uint64_t{1}); }
  std::uint64_t finished() const { return load_acquire(word(kFinished)); }
  // Fills in a push's record; false, and something in it, if that is not there (any more).
  bool read(std::uint64_t number, Record& record) const;

  // The rows that push `number` pays besides those that it names.
  struct Range {
    std::size_t begin = 0, end = 0;
  };
  Range share(std::uint64_t number) const;

  // Whether all rows have been paid `now` pushes.
  bool is_paid(std::uint64_t now) const { return load_relaxed(word(kPaid)) >= now; }
  void set_paid(std::uint64_t now) const { raise(kPaid, now); }
  // Says that a gradient, or what never settles as one, has just reached all rows: with the push of
  // this number, or without a push being counted after it.
  void stir(std::uint64_t now) const { raise(kStirred, now + 1); }

  // What one row owes, and is taken to be paid.
  struct Claim {
    std::uint64_t paid;  // before; it owes the pushes from there to `now`
    std::uint64_t idle;  // how many of the last paid ones brought no gradient; at most kRest
  };
  // Steps after which it does not matter how many.
  static constexpr std::uint64_t kRest = 0xFFFF;

  std::uint64_t paid(std::size_t row) const { return load_relaxed(row_words_ + row) >> kIdleBits; }
  // False if the row owes nothing of `now` pushes.
  bool claim(std::size_t row, std::uint64_t now, Claim& claim) const;
  // A gradient reaches the row: the push that brings it is paid by it.
  void touch(std::size_t row) const;

 private:
  enum Word { kStarted, kFinished, kPaid, kStirred };
  static constexpr std::size_t kHead = 64;  // bytes
  static constexpr unsigned kIdleBits = 16;

  std::uint64_t* word(Word which) const { return reinterpret_cast<std::uint64_t*>(at_) + which; }
  void raise(Word which, std::uint64_t value) const;
  std::uint64_t* record_at(std::uint64_t number) const;

  std::byte* at_;
  std::size_t rows_, coef_words_, records_;
  std::uint64_t* row_words_;  // paid << 16 | kRest - idle, so that a row of a new book is at rest
};

}  // namespace asyncopt
