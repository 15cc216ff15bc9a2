// The board with threads: batches, pauses, seats and events; turns are in test_board_gate.cc, and
// deaths in test_board_processes.cc.
#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <stdexcept>

#include "board.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

void check_refusals() {
  const TestBoard board(2);
  CHECK_THROWS(std::invalid_argument, "rank: expected less than 2, got 2", board->take(2, 0, 1));
  CHECK_THROWS(std::invalid_argument, "round: expected less than 8388608, got 8388608",
               board->take(0, kMaxRounds, 1));
  CHECK_THROWS(std::invalid_argument, "total: expected at most 4294967295",
               board->take_static(0, 0, kMaxBatches + 1, 2));
  CHECK_THROWS(std::invalid_argument, "workers: expected 1 to 32000, got 0",
               Board::create(board.memory.data(), board.memory.size(), 0));
  CHECK_THROWS(std::invalid_argument, "page-aligned bytes",
               Board::create(board.memory.data(), board.memory.size() - 1, 2));
  Board::attach(board.memory.data(), board.memory.size());
  CHECK_THROWS(SegmentError, "no board", Board::attach(board.memory.data(), 0));
  CHECK_THROWS(SegmentError, "no board", Board::attach(board.memory.data(), kPage));
  const Mapping blank(board.memory.size());
  CHECK_THROWS(SegmentError, "no board", Board::attach(blank.data(), blank.size()));
  board->header().pid_namespace += 1;
  CHECK_THROWS(SegmentError, "another PID namespace",
               Board::attach(board.memory.data(), board.memory.size()));
}

void check_the_largest_numbers() {
  const TestBoard board(kMaxWorkers);
  const std::size_t last = kMaxWorkers - 1;
  CHECK_EQ(board.take(last, kMaxRounds - 1, kMaxBatches), 0);
  CHECK_EQ(board.take(0, kMaxRounds - 1, kMaxBatches), 1);
  board->abandon(last);
  CHECK_EQ(board.take(last - 1, kMaxRounds - 1, kMaxBatches), 0);
  CHECK_EQ(board.take_static(last, 0, kMaxBatches, kMaxBatches - kMaxWorkers), std::int64_t{last});
  CHECK_EQ(board->take_static(last, 0, kMaxBatches, kMaxBatches - kMaxWorkers).value(),
           std::int64_t{kMaxBatches - 1});
  CHECK_EQ(board.take_static(last, 0, kMaxBatches, kMaxBatches - kMaxWorkers), -1);
}

// More rounds than the ring holds, and workers that are rounds apart: each batch exactly once.
void check_every_batch_once() {
  constexpr std::size_t kWorkers = 4, kRounds = 3 * kRing;
  constexpr std::uint64_t kTotal = count(300, 30);
  const TestBoard board(kWorkers);
  std::vector<std::atomic<int>> handed(kRounds * kTotal);
  run_threads(kWorkers, [&](std::size_t rank) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      std::int64_t before = -1;
      while (const auto batch = board->take(rank, round, kTotal)) {
        CHECK(before < static_cast<std::int64_t>(*batch));
        CHECK(*batch < kTotal);
        before = *batch;
        handed[round * kTotal + *batch].fetch_add(1);
      }
      if (rank % 2 == 0) board->done(rank, round);  // with or without
    }
  });
  for (const auto& times : handed) CHECK_EQ(times.load(), 1);
  CHECK_EQ(board.take(0, 0, kTotal), -1);  // long over
}

void check_shares() {
  const TestBoard board(3);
  for (const std::uint64_t total : {0u, 1u, 2u, 3u, 7u, 9u}) {
    const std::uint64_t round = 2 * kRing + total;
    for (std::size_t rank = 0; rank < 3; ++rank) {
      for (auto batch = static_cast<std::int64_t>(rank); batch < static_cast<std::int64_t>(total);
           batch += 3)
        CHECK_EQ(board.take_static(rank, round, total, 3), batch);
      for (int i = 0; i < 3; ++i) CHECK_EQ(board.take_static(rank, round, total, 3), -1);
    }
  }
  // A worker that leaves a round early finds it over; for the others it goes on.
  CHECK_EQ(board.take_static(0, 20, 9, 3), 0);
  board->done(0, 20);
  CHECK_EQ(board.take_static(0, 20, 9, 3), -1);
  CHECK_EQ(board.take_static(1, 20, 9, 3), 1);
  CHECK_EQ(board.take(0, 21, 9), 0);
  board->done(0, 21);
  CHECK_EQ(board.take(0, 21, 9), -1);
  CHECK_EQ(board.take(1, 21, 9), 1);
}

// Loops inside loops: each round keeps its own batch.
void check_rounds_inside_rounds() {
  const TestBoard board(1);
  CHECK_EQ(board.take(0, 0, 5), 0);
  for (std::int64_t i = 0; i < 3; ++i) CHECK_EQ(board.take(0, 1, 3), i);
  CHECK_EQ(board.take(0, 1, 3), -1);
  board->leave(0);
  CHECK_EQ(board.take(0, 0, 5), 0);  // the outer batch was not done
  CHECK_EQ(board.take(0, 1, 3), -1);
  CHECK_EQ(board.take(0, 0, 5), 1);
}

// The state that a rank's next worker finds, by how its predecessor ended.
void check_replacement() {
  const TestBoard board(2);
  CHECK_EQ(board->seat(0).incarnation.load(), 0u);
  CHECK_EQ(board.take(0, 0, 10), 0);
  CHECK_EQ(board.take_static(0, 1, 10, 2), 0);
  CHECK_EQ(board.take_static(0, 1, 10, 2), 2);
  CHECK_EQ(board->seat(0).incarnation.load(), 1u);
  board->leave(0);
  CHECK_EQ(board->seat(0).process.load(), 0u);
  CHECK_EQ(board.take(1, 0, 10), 1);
  CHECK_EQ(board.take(0, 0, 10), 0);
  CHECK_EQ(board->seat(0).incarnation.load(), 2u);
  CHECK_EQ(board.take(0, 0, 10), 2);
  CHECK_EQ(board.take_static(0, 1, 10, 2), 2);
  CHECK_EQ(board.take_static(0, 1, 10, 2), 4);
  // Finished batches are not handed out again.
  board->finish(0, 0);
  board->finish(0, 1);
  board->leave(0);
  CHECK_EQ(board.take(0, 0, 10), 3);
  CHECK_EQ(board.take_static(0, 1, 10, 2), 6);
}

// Batches between two pushes: kept until `finish`, or one too many.
void check_kept() {
  const TestBoard board(2);
  CHECK_EQ(board.take(0, 0, 2000), 0);
  for (std::uint32_t i = 1; i < 4; ++i) CHECK_EQ(*board->take(0, 0, 2000, true), i);
  CHECK_EQ(*board->take_static(0, 1, 9, 2), 0u);
  CHECK_EQ(*board->take_static(0, 1, 9, 2, true), 2u);
  board->leave(0);
  // A static share and a shared round, each in its order; what is done in one is open in the other.
  for (std::uint32_t i = 0; i < 2; ++i) CHECK_EQ(*board->take(0, 0, 2000, true), i);
  CHECK_EQ(*board->take_static(0, 1, 9, 2), 0u);
  board->finish(0, 0);
  board->leave(0);
  for (std::uint32_t i = 2; i < 5; ++i) CHECK_EQ(*board->take(0, 0, 2000, true), i);
  for (std::uint32_t i = 0; i < 6; i += 2) CHECK_EQ(*board->take_static(0, 1, 9, 2, true), i);
  // Positions hold them, and a board that goes on from there.
  const Positions positions = board->positions();
  CHECK_EQ(positions.claims.size(), 6u);
  const TestBoard resumed(2);
  resumed->restore(positions);
  for (std::uint32_t i = 2; i < 6; ++i) CHECK_EQ(*resumed->take(0, 0, 2000, true), i);
  for (std::uint32_t i = 0; i < 8; i += 2) CHECK_EQ(*resumed->take_static(0, 1, 9, 2, true), i);
  // A loop that was left has none.
  resumed->done(0, 0);
  resumed->leave(0);
  CHECK_EQ(resumed.take(0, 0, 2000), -1);
  CHECK_EQ(resumed->positions().claims.size(), 5u);

  Positions many{.workers = 2, .turns = 0, .rounds = {}, .claims = {}};
  for (std::uint64_t i = 0; i < kKept + 2; ++i) many.claims.push_back({0, 0, i, kRedo});
  CHECK_THROWS(std::invalid_argument, "at most 1024 batches kept", TestBoard(2)->restore(many));
}

void check_orphans() {
  const TestBoard board(4);
  for (std::size_t rank = 0; rank < 4; ++rank)
    CHECK_EQ(board.take(rank, 0, 6), static_cast<std::int64_t>(rank));
  board->abandon(1);
  board->abandon(2);
  board->abandon(2);
  // Orphans of a round do not appear in another one.
  CHECK_EQ(board.take(3, kRing, 6), 0);
  CHECK_EQ(board.take(0, 0, 6), 1);
  // The adopter dies as well: its replacement has the batch.
  board->leave(0);
  CHECK_EQ(board.take(0, 0, 6), 1);
  CHECK_EQ(board.take(0, 0, 6), 2);
  board->abandon(0);
  CHECK_EQ(board.take(3, 0, 6), -1);  // its round is over: it is in one of the next lap
}

// Stop anywhere, write the positions down, go on in another run: together each batch once.
void check_restore() {
  constexpr std::size_t kWorkers = 3;
  constexpr std::uint64_t kTotal = 40, kRounds = 2 * kRing + 5;  // even ones shared, odd ones not
  std::mt19937 random(7);
  std::vector<int> finished(kRounds * kTotal);
  Positions positions{.workers = kWorkers, .turns = 0, .rounds = {}, .claims = {}};
  bool more = true;
  for (int run = 0; more; ++run) {
    CHECK_LE(run, 1000);
    const TestBoard board(kWorkers);
    board->restore(positions);
    CHECK_EQ(board->turns(), positions.turns);
    std::array<std::uint64_t, kWorkers> round{};
    std::array<std::int64_t, kWorkers> batch{-1, -1, -1};
    for (auto steps = random() % 2000; steps > 0; --steps) {
      const std::size_t rank = random() % kWorkers;
      std::uint64_t& at = round[rank];
      if (at == kRounds) continue;
      if (batch[rank] >= 0) ++finished[at * kTotal + static_cast<std::uint64_t>(batch[rank])];
      const auto next = at % 2 == 0 ? board->take(rank, at, kTotal)
                                    : board->take_static(rank, at, kTotal, kWorkers);
      batch[rank] = next ? static_cast<std::int64_t>(*next) : -1;
      if (next) {
        board->begin(rank, kUnbounded, 0);
        board->admit(rank, 0);
        board->end(rank);
      } else {
        board->done(rank, at++);
      }
    }
    for (std::size_t rank = 0; rank < kWorkers; ++rank)
      if (batch[rank] >= 0 && random() % 2 == 0) {  // the others' batches come again
        ++finished[round[rank] * kTotal + static_cast<std::uint64_t>(batch[rank])];
        board->finish(rank, round[rank]);
      }
    positions = board->positions();
    more = *std::min_element(round.begin(), round.end()) < kRounds;
  }
  for (const int times : finished) CHECK_EQ(times, 1);

  const TestBoard board(kWorkers + 1);
  CHECK_THROWS(std::invalid_argument, "resume with workers=3", board->restore(positions));
  positions.workers = kWorkers + 1;
  positions.claims.push_back({kWorkers + 1, 0, 0, kDone});
  CHECK_THROWS(std::invalid_argument, "rank: expected less than 4", board->restore(positions));
  positions.claims.back() = {0, kMaxRounds, 0, kDone};
  CHECK_THROWS(std::invalid_argument, "round: expected", board->restore(positions));
  positions.claims.pop_back();
  board->beat(1);
  CHECK_THROWS(std::invalid_argument, "no worker has used", board->restore(positions));
}

void check_pause() {
  const TestBoard board(3);
  CHECK(board->park(0, 0));
  board->pause();
  CHECK(board->paused());
  CHECK(!board->park(0, kSecond / 100));
  CHECK_EQ(board->parked().size(), 1u);  // it polls again soon, and is parked meanwhile
  board->leave(0);
  CHECK(board->parked().empty());
  int state[3] = {};
  std::thread launcher([&] {
    const auto start = Clock::now();
    while (board->parked().size() < 3) CHECK_LE(seconds_since(start), 60);
    for (int& each : state) CHECK_EQ(std::exchange(each, 2), 1);  // seen, and left alone
    board->resume();
  });
  run_threads(3, [&](std::size_t rank) {
    state[rank] = 1;
    CHECK(board->park(rank, 60 * kSecond));
    CHECK_EQ(state[rank], 2);
  });
  launcher.join();
  CHECK(board->parked().empty());
}

void check_seats() {
  const TestBoard board(2);
  CHECK(std::isnan(board->seat(1).loss.load()));
  board->log(1, 0.25);
  for (int i = 0; i < 3; ++i) board->beat(1);
  CHECK_EQ(board->seat(1).loss.load(), 0.25);
  CHECK_EQ(board->seat(1).progress.load_relaxed(), 3u);
  CHECK_EQ(board->seat(1).process.load(), ProcessId::mine().bits());
  CHECK_EQ(board->seat(0).incarnation.load(), 0u);
  board->leave(1);
  board->beat(1);
  CHECK_EQ(board->seat(1).progress.load_relaxed(), 4u);
}

// A reader beside a fast writer gets each event at most once, undamaged, and the number of events
// that it missed.
void check_events() {
  constexpr auto kPhaseCount = static_cast<std::uint32_t>(std::size(kPhases));
  const std::uint64_t marks = count(2'000'000, 200'000);
  const TestBoard board(1);
  CHECK(board->events(0, 0).events.empty());
  std::atomic<bool> writing{true};
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < marks; ++i) {
      if (i == marks / 2) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      board->mark(0, static_cast<std::uint32_t>(i % kPhaseCount));
    }
    writing.store(false);
  });
  const std::uint64_t start = now_ns();
  std::uint64_t last = 0, got = 0, lost = 0, before = 0;
  for (bool more = true; more;) {
    more = writing.load();
    const Events found = board->events(0, last);
    lost += found.lost;
    got += found.events.size();
    CHECK_LE(found.events.size(), kEvents);
    for (std::size_t i = 0; i < found.events.size(); ++i) {
      const Event& event = found.events[i];
      if (i > 0) CHECK_EQ(event.sequence, found.events[i - 1].sequence + 1);
      CHECK(last < event.sequence);
      last = event.sequence;
      CHECK_EQ(event.phase, (event.sequence - 1) % kPhaseCount);
      CHECK_LE(before, event.ns);
      CHECK_LE(start / 2, event.ns);
      before = event.ns;
    }
  }
  writer.join();
  CHECK_EQ(last, marks);
  CHECK_EQ(got + lost, marks);
  CHECK_LE(before, now_ns());
  CHECK_EQ(board->events(0, marks).events.size() + board->events(0, marks).lost, 0u);
  CHECK_EQ(board->events(0, 0).lost, marks - kEvents + 1);
}

}  // namespace

int main() {
  set_deadline();
  check_refusals();
  check_the_largest_numbers();
  check_every_batch_once();
  check_shares();
  check_rounds_inside_rounds();
  check_replacement();
  check_kept();
  check_orphans();
  check_restore();
  check_pause();
  check_seats();
  check_events();
}
