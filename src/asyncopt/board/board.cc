// The board's memory, seats and pause.
#include "asyncopt/board/board.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>

#include "asyncopt/base/wait.h"
#include "asyncopt/store/segment.h"

namespace asyncopt {

std::uint64_t Board::bytes_needed(std::uint64_t workers) {
  return kPage + kRing * sizeof(Round) + workers * sizeof(Seat);
}

Board Board::create(void* memory, std::uint64_t bytes, std::uint64_t workers) {
  if (workers == 0 || workers > kMaxWorkers)
    throw std::invalid_argument("workers: expected 1 to " + std::to_string(kMaxWorkers) + ", got " +
                                std::to_string(workers));
  if (bytes != bytes_needed(workers) || reinterpret_cast<std::uintptr_t>(memory) % kPage != 0)
    throw std::invalid_argument("board: expected " + std::to_string(bytes_needed(workers)) +
                                " page-aligned bytes, got " + std::to_string(bytes));
  auto* const h = new (memory) BoardHeader{};
  h->total_bytes = bytes;
  h->pid_namespace = pid_namespace();
  h->workers = workers;
  h->gate.create();
  const Board board(memory);
  for (std::size_t i = 0; i < kRing; ++i) new (&board.round(i)) Round;
  for (std::size_t i = 0; i < workers; ++i) new (&board.seat_unchecked(i)) Seat;
  h->magic.store(kBoardMagic, std::memory_order_release);  // pairs with the acquire in attach
  return board;
}

Board Board::attach(void* memory, std::uint64_t bytes) {
  const auto* const h = static_cast<const BoardHeader*>(memory);
  if (bytes < kPage || h->magic.load(std::memory_order_acquire) != kBoardMagic ||
      h->total_bytes != bytes || bytes_needed(h->workers) != bytes)
    throw SegmentError("board: this memory is no board, or one of another build of asyncopt");
  if (h->pid_namespace != pid_namespace())
    throw SegmentError(
        "board: it belongs to another PID namespace (a container?), where lock owners cannot be "
        "told apart; start all workers in one");
  return Board(memory);
}

Round& Board::round(std::size_t entry) const {
  return reinterpret_cast<Round*>(memory_ + kPage)[entry];
}

Seat& Board::seat_unchecked(std::size_t rank) const {
  return reinterpret_cast<Seat*>(memory_ + kPage + kRing * sizeof(Round))[rank];
}

Seat& Board::seat(std::size_t rank) const {
  if (rank >= workers())
    throw std::invalid_argument("rank: expected less than " + std::to_string(workers()) + ", got " +
                                std::to_string(rank));
  return seat_unchecked(rank);
}

Seat& Board::sit(std::size_t rank) const {
  Seat& mine = seat(rank);
  const std::uint64_t me = ProcessId::mine().bits();
  if (mine.process.load(std::memory_order_relaxed) == me) return mine;
  // The last store takes the seat. If this process dies before it, the next one starts over.
  leave(rank);
  settle(rank);
  mine.phase.store(0, std::memory_order_relaxed);
  mine.incarnation.fetch_add(1, std::memory_order_relaxed);
  mine.process.store(me, std::memory_order_release);
  return mine;
}

void Board::leave(std::size_t rank) const {
  Seat& left = seat(rank);
  end(rank);
  left.parked.store(0, std::memory_order_release);
  left.process.store(0, std::memory_order_release);
}

// Sequentially consistent, like the end of `park`: a worker that wakes up either sees this pause or
// no longer counts as parked.
void Board::pause() const { header().paused.store(1, std::memory_order_seq_cst); }

void Board::resume() const {
  header().paused.store(0, std::memory_order_release);
  futex_wake_all(header().paused);
}

bool Board::park(std::size_t rank, std::uint64_t timeout_ns) const {
  Seat& mine = sit(rank);
  // A reader that finds the worker parked sees its earlier writes; pairs with the load in `parked`.
  do {
    mine.parked.store(1, std::memory_order_release);
    if (!wait_until(header().paused, timeout_ns, [this] { return !paused(); })) return false;
    mine.parked.store(0, std::memory_order_seq_cst);
  } while (header().paused.load(std::memory_order_seq_cst) != 0);  // paused again meanwhile
  return true;
}

std::vector<std::size_t> Board::parked() const {
  std::vector<std::size_t> ranks;
  for (std::size_t i = 0; i < workers(); ++i)
    if (seat(i).parked.load(std::memory_order_seq_cst) != 0) ranks.push_back(i);
  return ranks;
}

void Board::beat(std::size_t rank) const { sit(rank).progress.add(1); }

void Board::log(std::size_t rank, double loss) const {
  sit(rank).loss.store(loss, std::memory_order_relaxed);
}

void Board::mark(std::size_t rank, std::uint32_t phase, std::uint64_t ns) const {
  Seat& mine = sit(rank);
  mine.phase.store(phase, std::memory_order_relaxed);
  const std::uint64_t n = mine.recorded.load(std::memory_order_relaxed);
  // A reader that sees this event, even in the place of an older one, sees that n were recorded.
  // Both releases pair with the acquires in `events`.
  mine.events[n % kEvents].store(ns << 3 | phase, std::memory_order_release);
  mine.recorded.store(n + 1, std::memory_order_release);
}

Events Board::events(std::size_t rank, std::uint64_t after) const {
  const Seat& other = seat(rank);
  const std::uint64_t end = other.recorded.load(std::memory_order_acquire);
  const auto oldest = [](std::uint64_t recorded) {
    return recorded < kEvents ? std::uint64_t{0} : recorded - kEvents + 1;  // one is being written
  };
  std::vector<Event> found;
  for (std::uint64_t i = std::max(after, oldest(end)); i < end; ++i) {
    const std::uint64_t word = other.events[i % kEvents].load(std::memory_order_acquire);
    found.push_back({i + 1, word >> 3, static_cast<std::uint32_t>(word & 7)});
  }
  // Drop events that were overwritten meanwhile: they do not match their numbers.
  const std::uint64_t first = oldest(other.recorded.load(std::memory_order_acquire));
  std::erase_if(found, [first](const Event& event) { return event.sequence <= first; });
  if (found.empty()) return {};  // lost events are reported with the next one found
  const std::uint64_t lost = found.front().sequence - 1 - after;
  return {std::move(found), lost};
}

}  // namespace asyncopt
