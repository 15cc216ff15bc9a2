// The board of a run: one block of shared memory that coordinates the workers and their launcher.
// It hands out batches (dispenser.cc), bounds staleness (gate.cc), and publishes the progress of
// each worker (board.cc).
//
//   BoardHeader | Round x kRing | Seat x workers
//
// A worker uses the seat of its rank, from one thread at a time. Its first call takes the seat; the
// first call of a replacement also resolves the claims that the dead worker left. Any process may
// be killed at any instruction: only begin and admit take a lock, which is robust and guards no
// data that would need repair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "asyncopt/base/counters.h"
#include "asyncopt/base/robust_mutex.h"
#include "asyncopt/base/wait.h"

namespace asyncopt {

inline constexpr std::uint64_t kBoardMagic = 0x6472616f62706f61;  // "aopboard"
inline constexpr std::size_t kRing = 64;                          // rounds that are open at once
inline constexpr std::size_t kEvents = 4096;                      // events kept per seat
inline constexpr std::size_t kKept = 1024;                        // batches kept until a push
inline constexpr std::uint64_t kMaxRounds = kRing << 17;
inline constexpr std::uint64_t kMaxBatches = 0xFFFF'FFFF;  // per round
inline constexpr std::size_t kOrders = 6;  // epochs of a round whose orders can be compared
inline constexpr std::uint64_t kUnbounded = ~std::uint64_t{0};

inline constexpr const char* kPhases[] = {"start", "pull", "compute", "push", "wait", "done"};

// Three numbers in one atomic word. For a round: `who` took the last batch (1 + rank), and the
// index of the next batch. For a seat's claim on a round: its state as `who`, and the index of its
// batch. `lap` is round / kRing: a word of an earlier lap counts as blank.
struct Slip {
  std::uint32_t who = 0, lap = 0, index = 0;

  static Slip unpack(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word >> 49),
            static_cast<std::uint32_t>(word >> 32) & 0x1FFFF, static_cast<std::uint32_t>(word)};
  }
  std::uint64_t pack() const { return std::uint64_t{who} << 49 | std::uint64_t{lap} << 32 | index; }
};

// States of a claim.
enum : std::uint32_t {
  kFree,     // no batch
  kTrying,   // undecided: the round's word, or an orphan's claim, says whether the seat has it
  kHas,      // being worked on
  kRedo,     // was being worked on when the worker died
  kDone,     // finished; the worker continues with the round
  kLeft,     // the worker has finished with the round
  kAdopted,  // kAdopted + r: was an orphan, now taken by worker r
};

struct alignas(kCacheLine) Round {
  std::atomic<std::uint64_t> last{0};            // Slip
  std::atomic<std::uint64_t> orders[kOrders]{};  // lap << 47 | epoch % 2^15 << 32 | digest
};
static_assert(sizeof(Round) == kCacheLine);

struct alignas(kCacheLine) Seat {
  std::atomic<std::uint64_t> process{0};      // bits of its ProcessId; 0: the seat is empty
  std::atomic<std::uint32_t> incarnation{0};  // number of workers that have taken this seat
  std::atomic<std::uint32_t> phase{0};        // index into kPhases
  std::atomic<std::uint32_t> parked{0};
  std::atomic<std::uint32_t> abandoned{0};
  std::atomic<double> loss{std::numeric_limits<double>::quiet_NaN()};
  Counter progress;
  alignas(kCacheLine) std::atomic<std::uint64_t> turn{0};  // turns ended << 2 | admitted | open
  std::atomic<std::uint64_t> limit{0};   // most turns ended before the push of the open turn
  std::atomic<std::uint64_t> ticket{0};  // place in the queue for a turn; 0: not waiting
  alignas(kCacheLine) std::atomic<std::uint64_t> claims[kRing] = {};  // Slips
  // Batches that were taken before the one in the claim and are not done either, oldest first:
  // Slips as in claims, in the states kHas, kRedo and kAdopted; a blank one is no batch.
  alignas(kCacheLine) std::atomic<std::uint32_t> kept{0};  // used length of `kept_slips`
  std::atomic<std::uint32_t> kept_again{0};                // upper bound of those in state kRedo
  std::atomic<std::uint64_t> kept_slips[kKept] = {};
  std::atomic<std::uint8_t> kept_entries[kKept] = {};  // ring places of their rounds
  std::atomic<std::uint64_t> recorded{0};              // number of events
  std::atomic<std::uint64_t> events[kEvents] = {};     // monotonic ns << 3 | phase
};
static_assert(std::atomic<double>::is_always_lock_free);

struct BoardHeader {
  std::atomic<std::uint64_t> magic;  // written last
  std::uint64_t total_bytes;
  std::uint64_t pid_namespace;
  std::uint64_t workers;
  std::uint64_t first_turn;  // turns ended before this run
  std::atomic<std::uint32_t> paused;
  std::atomic<std::uint32_t> orphanages;                         // seats abandoned
  alignas(kCacheLine) std::atomic<std::uint32_t> turns_changed;  // futex word: changed by wake-ups
  std::uint64_t tickets;                                         // tickets issued; under the lock
  RobustMutex gate;
};
static_assert(sizeof(BoardHeader) <= 4096 && sizeof(BoardHeader) % kCacheLine == 0);

struct Event {
  std::uint64_t sequence;  // from 1
  std::uint64_t ns;        // monotonic clock
  std::uint32_t phase;
};
struct Events {
  std::vector<Event> events;
  std::uint64_t lost = 0;  // events overwritten between `after` and the first of them
};

// Positions of a run in its rounds, from which another run can resume.
struct Positions {
  struct RoundAt {
    std::uint64_t round, next;
  };
  struct ClaimAt {
    std::uint64_t rank, round, index;
    std::uint32_t state;  // kRedo, kDone or kLeft
  };  // for each rank and round: batches to redo in order; the last may be kDone or kLeft instead
  std::uint64_t workers = 0, turns = 0;
  std::vector<RoundAt> rounds;
  std::vector<ClaimAt> claims;
};

// A view of a mapped board. Ranks and rounds out of range throw std::invalid_argument.
class Board {
 public:
  static std::uint64_t bytes_needed(std::uint64_t workers);
  // Initializes zeroed memory of bytes_needed(workers) bytes, page-aligned.
  static Board create(void* memory, std::uint64_t bytes, std::uint64_t workers);
  static Board attach(void* memory, std::uint64_t bytes);

  BoardHeader& header() const { return *reinterpret_cast<BoardHeader*>(memory_); }
  std::uint64_t workers() const { return header().workers; }
  Seat& seat(std::size_t rank) const;  // for reading

  // --- dispenser: each batch at least once, and exactly once if no worker dies

  // Takes the next batch of a round of `total`; nothing: none is left for this worker. Batches of a
  // dead worker of this rank come first, then those of abandoned ranks, then a new one. Marks the
  // worker's earlier batches as done, or, with `keep`, keeps them until `finish`: at most kKept;
  // one more marks those of this round as done. `total` may grow from call to call.
  std::optional<std::uint32_t> take(std::size_t rank, std::uint64_t round, std::uint64_t total,
                                    bool keep = false) const;
  // The same from the rank's static share: rank, rank + stride, rank + 2 stride, ...
  std::optional<std::uint32_t> take_static(std::size_t rank, std::uint64_t round,
                                           std::uint64_t total, std::uint64_t stride,
                                           bool keep = false) const;
  // Marks the worker's batches of this round as done: they are not redone if it dies later.
  void finish(std::size_t rank, std::uint64_t round) const;
  // Marks the round as finished by this worker, at its end or before.
  void done(std::size_t rank, std::uint64_t round) const;
  // False if another worker has reported a different digest of the order of this epoch of the
  // round. Digests of the last kOrders epochs are kept: a worker further behind is not compared.
  bool agree(std::uint64_t round, std::uint64_t epoch, std::uint32_t digest) const;
  // Called by the launcher for a dead worker that is not replaced: others may take its batches.
  void abandon(std::size_t rank) const;
  // Exact while all workers are parked. `restore` requires a board that no worker has used.
  Positions positions() const;
  void restore(const Positions& positions) const;

  // --- gate: between a worker's pull and its push, at most `max_staleness` turns of others end

  // Ends the open turn, if any, and opens the next. Returns the number of turns ended so far;
  // nothing after the timeout. The worker then keeps its place in the queue until it calls begin
  // again or `end`.
  std::optional<std::uint64_t> begin(std::size_t rank, std::uint64_t max_staleness,
                                     std::uint64_t timeout_ns) const;
  // Waits until the open turn may push; false after the timeout. Returns true at once if the turn
  // was admitted before, and outside of turns.
  bool admit(std::size_t rank, std::uint64_t timeout_ns) const;
  void end(std::size_t rank) const;
  // Called by the launcher after the worker's death and before it starts another.
  void leave(std::size_t rank) const;
  std::uint64_t turns() const;
  std::vector<std::size_t> in_turn() const;  // ranks whose turn is open

  // --- pause: workers park between batches

  void pause() const;
  void resume() const;
  bool paused() const { return header().paused.load(std::memory_order_acquire) != 0; }
  // Waits until the run is not paused; false after the timeout. The worker counts as parked
  // meanwhile.
  bool park(std::size_t rank, std::uint64_t timeout_ns) const;
  std::vector<std::size_t> parked() const;

  // --- seats

  void beat(std::size_t rank) const;
  void log(std::size_t rank, double loss) const;
  void mark(std::size_t rank, std::uint32_t phase) const { mark(rank, phase, now_ns()); }
  // `ns`: time of the monotonic clock, not before the previous event.
  void mark(std::size_t rank, std::uint32_t phase, std::uint64_t ns) const;
  // Events with a sequence number above `after`.
  Events events(std::size_t rank, std::uint64_t after) const;

 private:
  explicit Board(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  Round& round(std::size_t entry) const;
  Seat& seat_unchecked(std::size_t rank) const;
  Seat& sit(std::size_t rank) const;  // the caller's seat; takes it on the first call
  void settle(std::size_t rank) const;
  Slip before_next(Seat& mine, std::size_t rank, std::uint64_t round, bool keep) const;
  Slip settled(std::size_t rank, std::size_t entry) const;

  std::byte* memory_;
};

}  // namespace asyncopt
