#include "asyncopt/push/book.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace asyncopt {

namespace {

constexpr std::size_t kRecordHead = 2;  // words: number, settles_after
// How often all rows are paid while a record lives: a worker that sleeps for a quarter of that time
// in the middle of a push delays its share, and nothing is forgotten.
constexpr std::size_t kRounds = 4;

std::size_t words(std::size_t bytes) { return (bytes + 7) / 8; }

// A push multiplies up the steps that rows may have missed, records / kRounds, and pays its share
// of the rows, kRounds * rows / records; one costs about a seventh of the other.
std::size_t records(std::size_t rows) {
  const double balanced = static_cast<double>(kRounds) * 2.6 * std::sqrt(static_cast<double>(rows));
  return std::bit_ceil(std::max(static_cast<std::size_t>(balanced), std::size_t{64}));
}

std::uint64_t load(const std::uint64_t* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

}  // namespace

std::size_t Book::bytes(std::size_t rows, std::size_t coef_bytes) {
  return kHead + 8 * (records(rows) * (kRecordHead + words(coef_bytes)) + rows);
}

void Book::open(std::byte* at, std::size_t bytes, bool at_rest) {
  std::memset(at, 0, bytes);
  if (!at_rest) Book(at, 0, 0).stir(0);
}

Book::Book(std::byte* at, std::size_t rows, std::size_t coef_bytes)
    : at_(at),
      rows_(rows),
      coef_words_(words(coef_bytes)),
      records_(asyncopt::records(rows)),
      row_words_(reinterpret_cast<std::uint64_t*>(at + kHead) +
                 records_ * (kRecordHead + coef_words_)) {}

std::uint64_t* Book::record_at(std::uint64_t number) const {
  return reinterpret_cast<std::uint64_t*>(at_ + kHead) +
         number % records_ * (kRecordHead + coef_words_);
}

// A record is read while another push overwrites it only if its reader slept for a whole round of
// the ring; the number, zero while it is written, tells.
std::uint64_t Book::start(const Record& record) const {
  const std::uint64_t number = word(kStarted).fetch_add(1, std::memory_order_relaxed) + 1;
  std::uint64_t* const to = record_at(number);
  __atomic_store_n(to, 0, __ATOMIC_RELAXED);
  std::atomic_thread_fence(std::memory_order_release);  // pairs with the acquire fence in read()
  __atomic_store_n(to + 1, std::bit_cast<std::uint64_t>(record.settles_after), __ATOMIC_RELAXED);
  for (std::size_t i = 0; i < coef_words_; ++i) {
    std::uint64_t bits;
    std::memcpy(&bits, record.coef + 8 * i, sizeof bits);
    __atomic_store_n(to + kRecordHead + i, bits, __ATOMIC_RELAXED);
  }
  __atomic_store_n(to, number, __ATOMIC_RELEASE);  // pairs with the acquire in read()
  if (record.settles_after >= static_cast<double>(kRest)) stir(number);  // as decay in moments does
  return number;
}

bool Book::read(std::uint64_t number, Record& record) const {
  const std::uint64_t* const from = record_at(number);
  if (__atomic_load_n(from, __ATOMIC_ACQUIRE) != number) return false;
  record.settles_after = std::bit_cast<double>(load(from + 1));
  for (std::size_t i = 0; i < coef_words_; ++i) {
    const std::uint64_t bits = load(from + kRecordHead + i);
    std::memcpy(record.coef + 8 * i, &bits, sizeof bits);
  }
  std::atomic_thread_fence(std::memory_order_acquire);
  return load(from) == number;
}

Book::Range Book::share(std::uint64_t number) const {
  const std::size_t shares = records_ / kRounds, i = number % shares;
  return {i * rows_ / shares, (i + 1) * rows_ / shares};
}

void Book::raise(Word which, std::uint64_t value) const {
  const auto at = word(which);
  std::uint64_t seen = at.load(std::memory_order_relaxed);
  while (seen < value && !at.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

bool Book::claim(std::size_t row, std::uint64_t now, Claim& claim) const {
  const auto at = row_word(row);
  std::uint64_t seen = at.load(std::memory_order_relaxed);
  for (;;) {
    claim.paid = seen >> kIdleBits;
    if (claim.paid >= now) return false;
    const std::uint64_t unrest = seen & kRest, owed = now - claim.paid;
    const std::uint64_t next = now << kIdleBits | (unrest > owed ? unrest - owed : 0);
    if (at.compare_exchange_weak(seen, next, std::memory_order_relaxed)) {
      claim.idle = kRest - unrest;
      break;
    }
  }
  const std::uint64_t stirred = word(kStirred).load(std::memory_order_relaxed);
  if (stirred > 0)
    claim.idle = std::min(claim.idle, claim.paid + 1 > stirred ? claim.paid + 1 - stirred : 0);
  return true;
}

void Book::touch(std::size_t row) const {
  const auto at = row_word(row);
  std::uint64_t seen = at.load(std::memory_order_relaxed);
  while (!at.compare_exchange_weak(seen, ((seen >> kIdleBits) + 1) << kIdleBits | kRest,
                                   std::memory_order_relaxed)) {
  }
}

}  // namespace asyncopt
