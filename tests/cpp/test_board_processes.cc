// The board with killed processes: after every single instruction of their operations on it, and at
// random instants while all are busy.
#include <atomic>
#include <cstring>
#include <random>
#include <set>

#include "board.h"
#include "stepped.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

// The operation of worker 0 of three that the kill interrupts, in a round of kTotal batches.
struct Scene {
  static constexpr std::uint64_t kTotal = 7;

  const char* name;
  std::uint64_t round;
  std::multiset<std::int64_t> gone;   // batches of the round that are others' or finished by then
  void (*before)(const TestBoard&);   // by the launcher
  void (*prepare)(const TestBoard&);  // by the worker, which then takes a batch
  bool keep = false;                  // ... and keeps those that it has
};

constexpr std::uint64_t kRound = 3;
void sit_down(const TestBoard& board) { board->beat(0); }

const Scene kScenes[] = {
    {"the first batch", kRound, {}, [](const TestBoard&) {}, sit_down},
    {"a batch after another's",
     kRound,
     {0},
     [](const TestBoard& board) { CHECK_EQ(board.take(1, kRound, Scene::kTotal), 0); },
     sit_down},
    {"a batch after its own",
     kRound,
     {0},
     [](const TestBoard&) {},
     [](const TestBoard& board) {
       CHECK_EQ(board.take(0, kRound, Scene::kTotal), 0);
       board->finish(0, kRound);
     }},
    {"a round over an old one",
     kRound + kRing,
     {},
     [](const TestBoard& board) { CHECK_EQ(board.take(1, kRound, Scene::kTotal), 0); },
     sit_down},
    {"an orphan",
     kRound,
     {1},
     [](const TestBoard& board) {
       CHECK_EQ(board.take(2, kRound, Scene::kTotal), 0);
       CHECK_EQ(board.take(1, kRound, Scene::kTotal), 1);
       board->abandon(2);
     },
     sit_down},
    {"its predecessor's batch",
     kRound,
     {},
     [](const TestBoard& board) {
       CHECK_EQ(board.take(0, kRound, Scene::kTotal), 0);
       board->leave(0);
     },
     [](const TestBoard&) {}},
    {"a batch after those that it keeps",
     kRound,
     {},
     [](const TestBoard&) {},
     [](const TestBoard& board) {
       CHECK_EQ(board.take(0, kRound, Scene::kTotal), 0);
       CHECK_EQ(*board->take(0, kRound, Scene::kTotal, true), 1u);
     },
     true},
    {"a batch that its predecessor kept, after another one of them",
     kRound,
     {},
     [](const TestBoard& board) {
       CHECK_EQ(board.take(0, kRound, Scene::kTotal), 0);
       for (std::uint32_t i = 1; i < 3; ++i)
         CHECK_EQ(*board->take(0, kRound, Scene::kTotal, true), i);
       board->leave(0);
     },
     [](const TestBoard& board) { CHECK_EQ(board.take(0, kRound, Scene::kTotal), 0); },
     true},
    {"an orphan that was kept",
     kRound,
     {},
     [](const TestBoard& board) {
       CHECK_EQ(board.take(2, kRound, Scene::kTotal), 0);
       CHECK_EQ(*board->take(2, kRound, Scene::kTotal, true), 1u);
       board->abandon(2);
     },
     sit_down},
};

// Worker 0 is dead: the others, or its replacement, get every batch that is not gone exactly once.
void play_on(const TestBoard& board, const Scene& scene, bool replaced, bool others_first) {
  std::multiset<std::int64_t> handed = scene.gone;
  const auto take = [&](std::size_t rank) {
    const std::int64_t batch = board.take(rank, scene.round, Scene::kTotal);
    if (batch >= 0) handed.insert(batch);
    return batch >= 0;
  };
  if (others_first) take(1);
  if (replaced) {
    board->leave(0);
    take(0);
  } else {
    board->abandon(0);
  }
  while (take(1) || (replaced && take(0))) {
  }
  CHECK_EQ(handed.size(), Scene::kTotal);
  for (std::uint64_t i = 0; i < Scene::kTotal; ++i)
    CHECK_EQ(handed.count(static_cast<std::int64_t>(i)), 1u);
}

// For every instant of a take, on a copy of the board: the state if the worker had died there.
void check_death_in_take(const Scene& scene) {
  const TestBoard board(3);
  scene.before(board);
  Stepped worker([&] { scene.prepare(board); },
                 [&] { board->take(0, scene.round, Scene::kTotal, scene.keep); });
  int instants = 0;
  at_every_change(worker, board.memory, [&](int steps) {
    ++instants;
    for (const bool replaced : {true, false})
      for (const bool others_first : {true, false}) {
        current_case = std::string(scene.name) + ", killed after " + std::to_string(steps) +
                       (replaced ? ", replaced" : "") + (others_first ? ", others first" : "");
        play_on(TestBoard(board), scene, replaced, others_first);
      }
  });
  CHECK_LE(2, instants);
  current_case.clear();
}

// A worker's own share goes on at the batch that was not done.
void check_death_in_a_share() {
  const TestBoard board(2);
  Stepped worker(
      [&] {
        CHECK_EQ(board.take_static(0, 0, 6, 2), 0);
        board->finish(0, 0);
      },
      [&] { board->take_static(0, 0, 6, 2); });
  at_every_change(worker, board.memory, [&board](int) {
    const TestBoard copy(board);
    copy->leave(0);
    for (const int batch : {2, 4, -1}) CHECK_EQ(copy.take_static(0, 0, 6, 2), batch);
  });
}

// Locks change hands only at a real death. Afterwards nothing waits, and the bound is kept.
void check_death_in_a_turn() {
  current_case = "a turn";
  const TestBoard board(3);
  const auto set_up = [&] {
    board.reset();
    CHECK(board->begin(1, 2, 0).has_value());
  };
  const auto turn = [&] {
    board->begin(0, 2, 0);
    board->admit(0, 0);
    board->end(0);
  };
  for_each_death(
      board.memory, set_up, [&] { board->beat(0); }, turn,
      [&](bool died) {
        board->leave(0);
        CHECK_EQ(board->in_turn().size(), 1u);
        const std::uint64_t turns = board->turns();
        CHECK(turns == 1 || (died && turns == 0));
        CHECK(board->admit(1, 0));
        board->end(1);
        for (const std::size_t rank : {2u, 0u}) {
          CHECK(board->begin(rank, 0, 0).has_value());
          CHECK(board->admit(rank, 0));
          board->end(rank);
        }
        CHECK_EQ(board->turns(), turns + 3);
      });
  current_case.clear();
}

// Workers at the same board, killed and replaced at random.
template <class Work>
class Crew {
 public:
  Crew(const TestBoard& board, Work work) : board_(board), work_(work) {
    for (std::size_t rank = 0; rank < board->workers(); ++rank) children_.push_back(start(rank));
  }
  void kill_one(std::size_t rank) {
    kill(children_[rank], SIGKILL);
    const int status = wait_for(children_[rank], 30);
    if (!WIFSIGNALED(status)) CHECK_EQ(status, 0);
    children_[rank] = 0;
  }
  void replace(std::size_t rank) { children_[rank] = start(rank); }
  void join() {
    for (const pid_t child : children_)
      if (child != 0) CHECK_EQ(wait_for(child, 60), 0);
  }

 private:
  pid_t start(std::size_t rank) {
    return fork_child([this, rank] { work_(rank); });
  }

  const TestBoard& board_;
  Work work_;
  std::vector<pid_t> children_;
};

struct Handed {
  std::atomic<std::uint32_t> times;

  // The work on a batch: long enough that a death often falls into it.
  void work() {
    times.fetch_add(1);
    for (int i = 0; i < 30; ++i) asyncopt::pause();
  }
};

// Each batch at least once, and again at most once for every death.
void check_random_deaths_in_rounds() {
  constexpr std::size_t kWorkers = 3, kRounds = 150;
  constexpr std::uint64_t kTotal = 5000;
  const std::uint64_t kills = count(150, 30);
  const TestBoard board(kWorkers);
  const Mapping memory(kRounds * kTotal * sizeof(Handed));
  auto* const handed = static_cast<Handed*>(memory.data());
  Crew crew(board, [&](std::size_t rank) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      while (const auto batch = board->take(rank, round, kTotal))
        handed[round * kTotal + *batch].work();
      board->done(rank, round);
    }
  });
  std::mt19937 random(11);
  for (std::uint64_t k = 0; k < kills; ++k) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1500));
    const std::size_t rank = random() % kWorkers;
    crew.kill_one(rank);
    board->leave(rank);
    crew.replace(rank);
  }
  crew.join();
  std::uint64_t again = 0;
  for (std::size_t i = 0; i < kRounds * kTotal; ++i) {
    CHECK_LE(1u, handed[i].times.load());
    again += handed[i].times.load() - 1;
  }
  CHECK_LE(again, kills);
  if (!kSanitized) CHECK_LE(1u, again);  // or no death fell into the work
}

// The same without replacements: worker 0 survives, and takes the batches of the others.
void check_random_deaths_abandoned() {
  constexpr std::size_t kWorkers = 4;
  constexpr std::uint64_t kTotal = 3000;
  std::mt19937 random(12);
  for (int episode = 0; episode < count(60, 10); ++episode) {
    const TestBoard board(kWorkers);
    const Mapping memory(kTotal * sizeof(Handed));
    auto* const handed = static_cast<Handed*>(memory.data());
    const Mapping flag(kPage);
    auto& alone = *static_cast<std::atomic<bool>*>(flag.data());
    Crew crew(board, [&](std::size_t rank) {
      for (bool last = false; !last;) {
        last = rank != 0 || alone.load();
        while (const auto batch = board->take(rank, 0, kTotal)) handed[*batch].work();
      }
    });
    for (std::size_t rank = 1; rank < kWorkers; ++rank) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
      crew.kill_one(rank);
      board->abandon(rank);
    }
    alone.store(true);
    crew.join();
    std::uint64_t again = 0;
    for (std::size_t i = 0; i < kTotal; ++i) {
      CHECK_LE(1u, handed[i].times.load());
      again += handed[i].times.load() - 1;
    }
    CHECK_LE(again, kWorkers - 1);
  }
}

// The bound holds whichever worker dies; the others continue once the launcher has seen the death.
void check_random_deaths_in_turns(std::uint64_t max_staleness) {
  current_case = "max_staleness " + std::to_string(max_staleness);
  constexpr std::size_t kWorkers = 3;
  struct Shared {
    std::atomic<std::uint64_t> version, turns[kWorkers];
    std::atomic<bool> stop;
  };
  const TestBoard board(kWorkers);
  const Mapping memory(sizeof(Shared));
  auto& shared = *static_cast<Shared*>(memory.data());
  Crew crew(board, [&](std::size_t rank) {
    while (!shared.stop.load()) {
      CHECK(board->begin(rank, max_staleness, 20 * kSecond).has_value());
      const std::uint64_t pulled = shared.version.load();
      CHECK(board->admit(rank, 20 * kSecond));
      CHECK_LE(shared.version.fetch_add(1) - pulled, max_staleness);
      board->end(rank);
      shared.turns[rank].fetch_add(1);
    }
    board->end(rank);
  });
  std::mt19937 random(13);
  const auto until_progress = [&](std::size_t but) {
    std::uint64_t before[kWorkers];
    for (std::size_t rank = 0; rank < kWorkers; ++rank) before[rank] = shared.turns[rank].load();
    const auto start = Clock::now();
    for (std::size_t rank = 0; rank < kWorkers; ++rank)
      while (rank != but && shared.turns[rank].load() < before[rank] + 3) {
        CHECK_LE(seconds_since(start), 10);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
  };
  for (int k = 0; k < count(60, 10); ++k) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
    const std::size_t rank = random() % kWorkers;
    crew.kill_one(rank);
    board->leave(rank);
    until_progress(rank);
    crew.replace(rank);
  }
  until_progress(kWorkers);
  shared.stop.store(true);
  crew.join();
  CHECK_LE(shared.version.load(), board->turns());
  current_case.clear();
}

}  // namespace

int main() {
  set_deadline();
  for (const Scene& scene : kScenes) check_death_in_take(scene);
  check_death_in_a_share();
  check_death_in_a_turn();
  check_random_deaths_in_rounds();
  check_random_deaths_abandoned();
  for (const std::uint64_t bound : {0u, 1u, 3u}) check_random_deaths_in_turns(bound);
}
