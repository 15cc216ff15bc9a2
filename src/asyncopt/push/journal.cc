#include "asyncopt/push/journal.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

namespace asyncopt {

namespace {

constexpr std::size_t kRecordHead = 2;  // words: number, linear_after
// Number of times that every row catches up before a record is overwritten. A worker that sleeps
// for a quarter of that time in the middle of a push delays its share, but no record is lost.
constexpr std::size_t kRounds = 4;

std::size_t words(std::size_t bytes) { return (bytes + 7) / 8; }

// Number of records that balances the costs of a push: it composes the steps that rows may have
// missed, records / kRounds, and replays its share of the rows, kRounds * rows / records. Composing
// one step costs about a seventh of replaying one row.
std::size_t records(std::size_t rows) {
  const double balanced = static_cast<double>(kRounds) * 2.6 * std::sqrt(static_cast<double>(rows));
  return std::bit_ceil(std::max(static_cast<std::size_t>(balanced), std::size_t{64}));
}

}  // namespace

std::size_t Journal::bytes(std::size_t rows, std::size_t coef_bytes) {
  return kHead + 8 * (records(rows) * (kRecordHead + words(coef_bytes)) + rows);
}

void Journal::open(std::byte* at, std::size_t bytes, bool at_rest) {
  std::memset(at, 0, bytes);
  if (!at_rest) Journal(at, 0, 0).mark_active(0);
}

Journal::Journal(std::byte* at, std::size_t rows, std::size_t coef_bytes)
    : at_(at),
      rows_(rows),
      coef_words_(words(coef_bytes)),
      records_(asyncopt::records(rows)),
      row_words_(reinterpret_cast<std::uint64_t*>(at + kHead) +
                 records_ * (kRecordHead + coef_words_)) {}

std::uint64_t* Journal::record_at(std::uint64_t number) const {
  return reinterpret_cast<std::uint64_t*>(at_ + kHead) +
         number % records_ * (kRecordHead + coef_words_);
}

// The number validates a record, as in a seqlock: it is zero during a write. A reader meets an
// overwrite only if it slept for a whole round of the ring.
std::uint64_t Journal::start(const Record& record) const {
  const std::uint64_t number = fetch_add_relaxed(word(kStarted), std::uint64_t{1}) + 1;
  std::uint64_t* const to = record_at(number);
  store_relaxed(to, std::uint64_t{0});
  std::atomic_thread_fence(std::memory_order_release);  // pairs with the acquire fence in read()
  store_relaxed(to + 1, std::bit_cast<std::uint64_t>(record.linear_after));
  for (std::size_t i = 0; i < coef_words_; ++i) {
    std::uint64_t bits;
    std::memcpy(&bits, record.coef + 8 * i, sizeof bits);
    store_relaxed(to + kRecordHead + i, bits);
  }
  store_release(to, number);  // pairs with the acquire in read()
  if (record.linear_after >= static_cast<double>(kRest))
    mark_active(number);  // for example, weight decay that enters the moments
  return number;
}

bool Journal::read(std::uint64_t number, Record& record) const {
  const std::uint64_t* const from = record_at(number);
  if (load_acquire(from) != number) return false;
  record.linear_after = std::bit_cast<double>(load_relaxed(from + 1));
  for (std::size_t i = 0; i < coef_words_; ++i) {
    const std::uint64_t bits = load_relaxed(from + kRecordHead + i);
    std::memcpy(record.coef + 8 * i, &bits, sizeof bits);
  }
  std::atomic_thread_fence(std::memory_order_acquire);
  return load_relaxed(from) == number;
}

Journal::Range Journal::share(std::uint64_t number) const {
  const std::size_t shares = records_ / kRounds, i = number % shares;
  return {i * rows_ / shares, (i + 1) * rows_ / shares};
}

void Journal::raise(Word which, std::uint64_t value) const {
  std::uint64_t* const at = word(which);
  std::uint64_t seen = load_relaxed(at);
  while (seen < value && !compare_exchange_relaxed(at, seen, value)) {
  }
}

bool Journal::claim(std::size_t row, std::uint64_t now, Claim& claim) const {
  std::uint64_t* const at = row_words_ + row;
  std::uint64_t seen = load_relaxed(at);
  for (;;) {
    claim.applied = seen >> kIdleBits;
    if (claim.applied >= now) return false;
    const std::uint64_t unrest = seen & kRest, missed = now - claim.applied;
    const std::uint64_t next = now << kIdleBits | (unrest > missed ? unrest - missed : 0);
    if (compare_exchange_relaxed(at, seen, next)) {
      claim.idle = kRest - unrest;
      break;
    }
  }
  const std::uint64_t active = load_relaxed(word(kActive));
  if (active > 0)
    claim.idle = std::min(claim.idle, claim.applied + 1 > active ? claim.applied + 1 - active : 0);
  return true;
}

void Journal::touch(std::size_t row) const {
  std::uint64_t* const at = row_words_ + row;
  std::uint64_t seen = load_relaxed(at);
  while (!compare_exchange_relaxed(at, seen, ((seen >> kIdleBits) + 1) << kIdleBits | kRest)) {
  }
}

}  // namespace asyncopt
