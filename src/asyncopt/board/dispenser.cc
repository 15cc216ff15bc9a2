// The dispenser of the board: every batch of a round is handed out at least once, and exactly once
// if no worker dies.
//
// Round n has a word in the ring, and each seat a claim on it, which its worker writes. To take
// batch i, a worker claims "trying i" and advances the round's word from i to i + 1, with its rank,
// by compare-exchange. The worker that takes i + 1 first changes that worker's "trying i" to
// "has i". So at every instant the batch is not taken, or a claim or the word names its owner, and
// a replacement can find its predecessor's batch. An abandoned worker's batch is taken in the same
// way: the taker claims "trying i" and writes its rank to the orphan's claim by compare-exchange.
//
// A worker that accumulates gradients holds several batches until its push. The claim names the
// last one; the one before is appended to the list of kept batches before the claim changes. After
// a death in between it is in both places, and `settled` uses the list.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "asyncopt/board/board.h"

namespace asyncopt {
namespace {

using Word = std::atomic<std::uint64_t>;

// Acquire: pairs with the releases below, so a reader of a word sees its writer's earlier claims.
Slip load(const Word& word) { return Slip::unpack(word.load(std::memory_order_acquire)); }
void store(Word& word, const Slip& slip) { word.store(slip.pack(), std::memory_order_release); }
bool exchange(Word& word, const Slip& from, const Slip& to) {
  std::uint64_t expected = from.pack();
  return word.compare_exchange_strong(expected, to.pack(), std::memory_order_acq_rel);
}

void check_round(std::uint64_t round, std::uint64_t total) {
  if (round >= kMaxRounds)
    throw std::invalid_argument("round: expected less than " + std::to_string(kMaxRounds) +
                                ", got " + std::to_string(round));
  if (total > kMaxBatches)
    throw std::invalid_argument("total: expected at most " + std::to_string(kMaxBatches) +
                                " batches in a round, got " + std::to_string(total));
}

std::uint32_t lap_of(std::uint64_t round) { return static_cast<std::uint32_t>(round / kRing); }

// The claim as seen in this lap: blank if it is older.
Slip claim_on(const Word& claim, std::uint32_t lap) {
  const Slip found = load(claim);
  return found.lap < lap ? Slip{kFree, lap, 0} : found;
}

// True if the worker has left the round, or has moved on to a later one at this place of the ring.
bool is_over(const Slip& claim, std::uint32_t lap) { return claim.lap > lap || claim.who == kLeft; }

// Calls `visit` with the words of the batches that a seat keeps for an entry of the ring, oldest
// first, until it returns true. Returns true if it did.
template <class Visit>
bool any_kept(Seat& seat, std::size_t entry, Visit visit) {
  const std::uint32_t kept = seat.kept.load(std::memory_order_acquire);  // pairs with keep_slip
  for (std::uint32_t i = 0; i < kept; ++i)
    if (seat.kept_entries[i].load(std::memory_order_relaxed) == entry && visit(seat.kept_slips[i]))
      return true;
  return false;
}

// Appends to the seat's kept batches. False if there is no room.
bool keep_slip(Seat& seat, std::size_t entry, const Slip& slip) {
  const std::uint32_t kept = seat.kept.load(std::memory_order_relaxed);
  if (kept == kKept) return false;
  seat.kept_entries[kept].store(static_cast<std::uint8_t>(entry), std::memory_order_relaxed);
  seat.kept_slips[kept].store(slip.pack(), std::memory_order_relaxed);
  seat.kept.store(kept + 1, std::memory_order_release);
  return true;
}

// Drops the kept batches of an entry that are in `state`, or all of them.
void drop_kept(Seat& seat, std::size_t entry, std::optional<std::uint32_t> state = {}) {
  std::uint32_t kept = seat.kept.load(std::memory_order_relaxed);
  if (kept == 0) return;
  any_kept(seat, entry, [state](Word& word) {
    if (!state || load(word).who == *state) store(word, {});
    return false;
  });
  while (kept > 0 && seat.kept_slips[kept - 1].load(std::memory_order_relaxed) == 0) --kept;
  seat.kept.store(kept, std::memory_order_release);
}

// The next batch to redo, of the worker's predecessor.
std::optional<std::uint32_t> again(Seat& seat, Word& claim, std::size_t entry, const Slip& before) {
  std::optional<std::uint32_t> found;
  const auto give = [&](Word& word) {
    const Slip slip = load(word);
    if (slip.lap != before.lap || slip.who != kRedo) return false;
    store(word, {kHas, slip.lap, slip.index});
    found = slip.index;
    return true;
  };
  if (seat.kept_again.load(std::memory_order_relaxed) != 0) {
    if (any_kept(seat, entry, give)) {
      seat.kept_again.fetch_sub(1, std::memory_order_relaxed);
      return found;
    }
  }
  give(claim);
  return found;
}

}  // namespace

// Marks the worker's batches as done, or keeps them, before it takes another one. Returns its
// previous claim.
Slip Board::before_next(Seat& mine, std::size_t rank, std::uint64_t round, bool keep) const {
  const std::size_t entry = round % kRing;
  const Slip before = claim_on(mine.claims[entry], lap_of(round));
  if (is_over(before, lap_of(round))) return before;
  if (!keep || (before.who == kHas && !keep_slip(mine, entry, before))) finish(rank, round);
  return before;
}

std::optional<std::uint32_t> Board::take(std::size_t rank, std::uint64_t round, std::uint64_t total,
                                         bool keep) const {
  check_round(round, total);
  Seat& here = sit(rank);
  const std::size_t entry = round % kRing;
  Word& mine = here.claims[entry];
  const std::uint32_t lap = lap_of(round), me = static_cast<std::uint32_t>(rank);
  const Slip before = before_next(here, rank, round, keep);
  if (is_over(before, lap)) return {};
  if (const auto index = again(here, mine, entry, before)) return index;
  std::uint32_t adopted = 0;
  const auto adopt = [&](Word& orphan) {
    const Slip found = load(orphan);
    if (found.lap != lap || found.who != kRedo) return false;
    store(mine, {kTrying, lap, found.index});
    if (!exchange(orphan, found, {kAdopted + me, lap, found.index})) return false;
    adopted = found.index;
    store(mine, {kHas, lap, adopted});
    return true;
  };
  if (header().orphanages.load(std::memory_order_acquire) != 0)
    for (std::size_t i = 0; i < workers(); ++i) {
      Seat& other = seat(i);
      if (other.abandoned.load(std::memory_order_acquire) == 0) continue;
      if (other.kept_again.load(std::memory_order_relaxed) != 0 && any_kept(other, entry, adopt)) {
        other.kept_again.fetch_sub(1, std::memory_order_relaxed);
        return adopted;
      }
      if (adopt(other.claims[entry])) return adopted;
    }
  Word& word = this->round(entry).last;
  for (;;) {
    const Slip last = load(word);
    const std::uint32_t next = last.lap == lap ? last.index : 0;
    if (last.lap > lap || next >= total) {
      store(mine, {kDone, lap, before.index});
      return {};
    }
    if (last.who != 0)
      exchange(seat(last.who - 1).claims[entry], {kTrying, last.lap, last.index - 1},
               {kHas, last.lap, last.index - 1});
    store(mine, {kTrying, lap, next});
    if (!exchange(word, last, {me + 1, lap, next + 1})) continue;
    store(mine, {kHas, lap, next});
    return next;
  }
}

std::optional<std::uint32_t> Board::take_static(std::size_t rank, std::uint64_t round,
                                                std::uint64_t total, std::uint64_t stride,
                                                bool keep) const {
  check_round(round, total);
  Seat& here = sit(rank);
  Word& mine = here.claims[round % kRing];
  const std::uint32_t lap = lap_of(round);
  const Slip before = before_next(here, rank, round, keep);
  if (is_over(before, lap)) return {};
  if (const auto index = again(here, mine, round % kRing, before)) return index;
  const std::uint64_t next = before.who == kFree ? rank : before.index + stride;
  const bool left = next < total;
  if (!left && before.who == kFree) return {};
  const auto index = left ? static_cast<std::uint32_t>(next) : before.index;
  store(mine, {left ? kHas : kDone, lap, index});
  return left ? std::optional(index) : std::nullopt;
}

void Board::finish(std::size_t rank, std::uint64_t round) const {
  check_round(round, 0);
  Seat& here = sit(rank);
  Word& mine = here.claims[round % kRing];
  drop_kept(here, round % kRing, kHas);
  const Slip claim = load(mine);
  if (claim.lap == lap_of(round) && claim.who == kHas) store(mine, {kDone, claim.lap, claim.index});
}

void Board::done(std::size_t rank, std::uint64_t round) const {
  check_round(round, 0);
  Seat& here = sit(rank);
  Word& mine = here.claims[round % kRing];
  const Slip claim = claim_on(mine, lap_of(round));
  if (claim.lap != lap_of(round)) return;
  drop_kept(here, round % kRing);
  store(mine, {kLeft, claim.lap, claim.index});
}

bool Board::agree(std::uint64_t round, std::uint64_t epoch, std::uint32_t digest) const {
  check_round(round, 0);
  constexpr std::uint64_t kEpochs = 1 << 15, kBlank = 0;
  const std::uint64_t lap = lap_of(round);
  const std::uint64_t mine = lap << 47 | epoch % kEpochs << 32 | std::max(digest, 1U);
  Word& word = this->round(round % kRing).orders[epoch % kOrders];
  std::uint64_t seen = word.load(std::memory_order_relaxed);
  for (;;) {
    if (seen != kBlank) {
      if (seen >> 32 == mine >> 32) return seen == mine;
      const bool is_later = seen >> 47 == lap && ((seen >> 32) - epoch) % kEpochs < kEpochs / 2;
      if (seen >> 47 > lap || is_later) return true;
    }
    // Relaxed: the word guards no other data.
    if (word.compare_exchange_weak(seen, mine, std::memory_order_relaxed)) return true;
  }
}

// The claim of a worker that is not running, with "trying" resolved.
Slip Board::settled(std::size_t rank, std::size_t entry) const {
  const Word& claim = seat(rank).claims[entry];
  if (const Slip found = load(claim); found.who != kTrying) {
    const bool is_kept = found.who == kHas && any_kept(seat(rank), entry, [&found](Word& word) {
                           const Slip kept = load(word);
                           return kept.lap == found.lap && kept.index == found.index;
                         });
    return is_kept ? Slip{kDone, found.lap, found.index} : found;
  }
  const Slip last = load(round(entry).last);
  const Slip tried = load(claim);  // after the word: a worker resolves it before advancing the word
  if (tried.who != kTrying) return tried;
  bool has = last.lap == tried.lap && last.index == tried.index + 1 && last.who == rank + 1;
  const Slip adopted{kAdopted + static_cast<std::uint32_t>(rank), tried.lap, tried.index};
  const auto is_adopted = [&adopted](Word& word) { return load(word).pack() == adopted.pack(); };
  for (std::size_t i = 0; !has && i < workers(); ++i)
    has = is_adopted(seat(i).claims[entry]) || any_kept(seat(i), entry, is_adopted);
  return {has ? kHas : kFree, tried.lap, tried.index};
}

// Turns a dead worker's claims into batches to redo, by its replacement or by adopting workers.
void Board::settle(std::size_t rank) const {
  Seat& left = seat(rank);
  for (std::size_t entry = 0; entry < kRing; ++entry) {
    Slip claim = settled(rank, entry);
    if (claim.who == kHas) claim.who = kRedo;
    store(left.claims[entry], claim);
  }
  std::uint32_t to_redo = 0;
  for (std::uint32_t i = 0; i < left.kept.load(std::memory_order_relaxed); ++i) {
    const Slip slip = load(left.kept_slips[i]);
    if (slip.who == kHas) store(left.kept_slips[i], {kRedo, slip.lap, slip.index});
    to_redo += slip.who == kHas || slip.who == kRedo;
  }
  left.kept_again.store(to_redo, std::memory_order_relaxed);
}

void Board::abandon(std::size_t rank) const {
  leave(rank);
  settle(rank);
  if (seat(rank).abandoned.exchange(1, std::memory_order_acq_rel) == 0)
    header().orphanages.fetch_add(1, std::memory_order_release);
}

Positions Board::positions() const {
  Positions found{.workers = workers(), .turns = turns(), .rounds = {}, .claims = {}};
  for (std::size_t entry = 0; entry < kRing; ++entry) {
    const Slip last = load(round(entry).last);
    if (last.lap != 0 || last.index != 0)
      found.rounds.push_back({last.lap * kRing + entry, last.index});
    for (std::size_t rank = 0; rank < workers(); ++rank) {
      const Slip claim = settled(rank, entry);
      any_kept(seat(rank), entry, [&](Word& word) {
        const Slip kept = load(word);
        if (kept.lap == claim.lap && (kept.who == kHas || kept.who == kRedo))
          found.claims.push_back({rank, kept.lap * kRing + entry, kept.index, kRedo});
        return false;
      });
      if (claim.who == kFree) continue;
      const std::uint32_t state = claim.who == kHas       ? kRedo
                                  : claim.who >= kAdopted ? kDone
                                                          : claim.who;
      found.claims.push_back({rank, claim.lap * kRing + entry, claim.index, state});
    }
  }
  return found;
}

void Board::restore(const Positions& positions) const {
  if (positions.workers != workers())
    throw std::invalid_argument("positions: expected those of a run with " +
                                std::to_string(workers()) + " workers, got " +
                                std::to_string(positions.workers) +
                                "; resume with workers=" + std::to_string(positions.workers));
  for (const auto& r : positions.rounds) check_round(r.round, r.next);
  for (const auto& c : positions.claims) {
    check_round(c.round, c.index);
    seat(c.rank);
  }
  for (std::size_t rank = 0; rank < workers(); ++rank)
    if (seat(rank).incarnation.load(std::memory_order_relaxed) != 0)
      throw std::invalid_argument("positions: expected a board that no worker has used");
  header().first_turn = positions.turns;
  for (const auto& r : positions.rounds)
    store(round(r.round % kRing).last, {0, lap_of(r.round), static_cast<std::uint32_t>(r.next)});
  for (const auto& c : positions.claims) {
    Seat& here = seat(c.rank);
    Word& claim = here.claims[c.round % kRing];
    if (const Slip before = load(claim); before.who == kRedo && before.lap == lap_of(c.round)) {
      if (!keep_slip(here, c.round % kRing, before))
        throw std::invalid_argument("positions: expected at most " + std::to_string(kKept) +
                                    " batches kept by a worker");
      here.kept_again.fetch_add(1, std::memory_order_relaxed);
    }
    store(claim, {c.state, lap_of(c.round), static_cast<std::uint32_t>(c.index)});
  }
}

}  // namespace asyncopt
