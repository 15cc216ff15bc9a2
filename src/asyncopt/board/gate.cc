// The gate of the board: bounded staleness.
//
// An open turn has a limit, the number of turns that may have ended before its own push: those that
// had ended when it began, plus max_staleness. Admitted turns push next, in any order; the others
// can then push in the order of their limits. The invariant of begin and admit is that every limit
// is respected in such an order:
//
//   limit of an admitted turn  >=  turns ended + other turns admitted
//   limit of the k-th other    >=  turns ended + turns admitted + k,   k = 0, 1, ...
//
// Progress: once the admitted turns have ended, the first of the others can be admitted. Ending a
// turn moves it from admitted to ended (or removes it, if it never pushed), which keeps the
// invariant. Ending therefore takes no lock, and a sum that misses it errs on the safe side.
//
// Fairness: turns begin in the order of requests (tickets). Otherwise a worker that has just ended
// a turn would begin the next before a sleeper has woken, and the sleeper could starve.
#include <algorithm>

#include "asyncopt/base/wait.h"
#include "asyncopt/board/board.h"

namespace asyncopt {
namespace {

constexpr std::uint64_t kOpen = 1, kAdmitted = 2, kEnded = 4;  // in Seat::turn

// All turns but one worker's.
struct Others {
  std::uint64_t ended, admitted = 0;
  std::uint64_t least = kUnbounded;        // lowest limit of the admitted turns
  std::vector<std::uint64_t> limits;       // limits of the turns that are open and not admitted
  std::uint64_t next_ticket = kUnbounded;  // lowest ticket of the waiting workers

  Others(const Board& board, std::size_t but) : ended(board.header().first_turn) {
    for (std::size_t i = 0; i < board.workers(); ++i) {
      const Seat& seat = board.seat(i);
      const std::uint64_t turn = seat.turn.load(std::memory_order_acquire);
      ended += turn / kEnded;
      if (i == but) continue;
      if (const std::uint64_t ticket = seat.ticket.load(std::memory_order_relaxed); ticket != 0)
        next_ticket = std::min(next_ticket, ticket);
      if ((turn & kOpen) == 0) continue;
      const std::uint64_t limit = seat.limit.load(std::memory_order_relaxed);
      if ((turn & kAdmitted) != 0) {
        ++admitted;
        least = std::min(least, limit);
      } else {
        limits.push_back(limit);
      }
    }
  }
  // True if the invariant holds with `newcomers` more turns admitted.
  bool hold(std::uint64_t newcomers) {
    std::uint64_t before = ended + admitted + newcomers;
    if (newcomers != 0 && least < before - 1) return false;
    std::sort(limits.begin(), limits.end());
    return std::all_of(limits.begin(), limits.end(),
                       [&before](std::uint64_t limit) { return limit >= before++; });
  }
};

// Returns body(); false if the lock cannot be taken because its owner is stopped, not dead.
template <class Body>
bool locked(RobustMutex& mutex, Body body) {
  try {
    Tally nobody_counts;
    const RobustLock lock(mutex, kSliceNs, nobody_counts);
    return body();
  } catch (const LockTimeout&) {
    return false;
  }
}

void wake(BoardHeader& header) {
  header.turns_changed.fetch_add(1, std::memory_order_release);
  futex_wake_all(header.turns_changed);
}

}  // namespace

std::uint64_t Board::turns() const { return Others(*this, workers()).ended; }

std::vector<std::size_t> Board::in_turn() const {
  std::vector<std::size_t> ranks;
  for (std::size_t i = 0; i < workers(); ++i)
    if ((seat(i).turn.load(std::memory_order_relaxed) & kOpen) != 0) ranks.push_back(i);
  return ranks;
}

std::optional<std::uint64_t> Board::begin(std::size_t rank, std::uint64_t max_staleness,
                                          std::uint64_t timeout_ns) const {
  Seat& mine = sit(rank);
  if ((mine.turn.load(std::memory_order_relaxed) & kOpen) != 0) end(rank);
  const auto open = [&mine](std::uint64_t limit) {
    mine.limit.store(limit, std::memory_order_relaxed);
    // Pairs with the acquire in Others.
    mine.turn.store(mine.turn.load(std::memory_order_relaxed) | kOpen, std::memory_order_release);
  };
  if (max_staleness == kUnbounded) {  // waits for no turn and delays none
    open(kUnbounded);
    return turns();
  }
  std::optional<std::uint64_t> found;
  const auto try_open = [&] {
    if (mine.ticket.load(std::memory_order_relaxed) == 0)
      mine.ticket.store(++header().tickets, std::memory_order_relaxed);
    Others others(*this, rank);
    const std::uint64_t limit = others.ended + std::min(max_staleness, kUnbounded / 2);
    others.limits.push_back(limit);
    if (others.next_ticket < mine.ticket.load(std::memory_order_relaxed) || !others.hold(0))
      return false;
    open(limit);
    mine.ticket.store(0, std::memory_order_relaxed);
    found = others.ended;
    if (others.next_ticket != kUnbounded) wake(header());  // there may be room for one more
    return true;
  };
  wait_until(header().turns_changed, timeout_ns, [&] { return locked(header().gate, try_open); });
  return found;
}

bool Board::admit(std::size_t rank, std::uint64_t timeout_ns) const {
  Seat& mine = sit(rank);
  const std::uint64_t turn = mine.turn.load(std::memory_order_relaxed);
  if ((turn & kOpen) == 0 || (turn & kAdmitted) != 0) return true;
  const bool bounded = mine.limit.load(std::memory_order_relaxed) != kUnbounded;
  const auto enter = [&] {
    if (bounded && !Others(*this, rank).hold(1)) return false;
    mine.turn.store(turn | kAdmitted, std::memory_order_release);  // pairs with that in Others
    return true;
  };
  if (!bounded) return enter();
  return wait_until(header().turns_changed, timeout_ns,
                    [&] { return locked(header().gate, enter); });
}

void Board::end(std::size_t rank) const {
  Seat& mine = seat(rank);
  const std::uint64_t turn = mine.turn.load(std::memory_order_relaxed);
  const bool waited = mine.ticket.exchange(0, std::memory_order_relaxed) != 0;
  if ((turn & kOpen) != 0) {
    const std::uint64_t pushed = (turn & kAdmitted) != 0 ? kEnded : 0;
    // A reader that sees the turn ended sees its push; pairs with the acquire in Others.
    mine.turn.store((turn & ~(kOpen | kAdmitted)) + pushed, std::memory_order_release);
  }
  const bool bounded = mine.limit.load(std::memory_order_relaxed) != kUnbounded;
  if (waited || ((turn & kOpen) != 0 && bounded)) wake(header());
}

}  // namespace asyncopt
