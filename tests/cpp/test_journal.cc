// Missed steps of rows without a gradient: counted once, remembered long enough, replayed under
// every sync in place as if each push had updated each row.
#include <algorithm>
#include <numeric>

#include "asyncopt/push/apply.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// A journal in memory of its own.
struct OwnJournal {
  Mapping memory;
  Journal journal;

  explicit OwnJournal(std::size_t rows, bool at_rest = true)
      : memory(Journal::bytes(rows, kMaxCoef)),
        journal(static_cast<std::byte*>(memory.data()), rows, kMaxCoef) {
    Journal::open(static_cast<std::byte*>(memory.data()), memory.size(), at_rest);
  }
};

Record record_of(unsigned char value) {
  Record record;
  std::fill(std::begin(record.coef), std::end(record.coef), std::byte{value});
  record.linear_after = value;
  return record;
}

void check_records() {
  const OwnJournal own(3);
  const Journal& journal = own.journal;
  Record found;
  CHECK(!journal.read(1, found));
  std::uint64_t ring = 0;  // how many pushes are remembered
  for (unsigned char i = 1; ring == 0; ++i) {
    CHECK_EQ(journal.start(record_of(i)), i);
    CHECK(journal.read(i, found));
    CHECK(std::memcmp(found.coef, record_of(i).coef, kMaxCoef) == 0);
    CHECK_EQ(found.linear_after, i);
    if (!journal.read(1, found)) ring = i - 1u;
  }
  CHECK(journal.read(2, found));
  CHECK_EQ(journal.oldest(ring), 0u);
  CHECK_EQ(journal.oldest(ring + 1), 1u);
  CHECK_EQ(journal.finished(), 0u);
  journal.finish();
  CHECK_EQ(journal.finished(), 1u);
}

void check_claims() {
  const OwnJournal own(3);
  const Journal& journal = own.journal;
  Journal::Claim claim{};
  CHECK(!journal.claim(0, 0, claim));

  journal.touch(0);  // the first push, of row 0
  CHECK_EQ(journal.applied(0), 1u);
  CHECK(!journal.claim(0, 1, claim));
  CHECK(journal.claim(0, 5, claim));  // four others
  CHECK_EQ(claim.applied, 1u);
  CHECK_EQ(claim.idle, 0u);
  CHECK(!journal.claim(0, 5, claim));  // once
  CHECK(journal.claim(0, 6, claim));
  CHECK_EQ(claim.applied, 5u);
  CHECK_EQ(claim.idle, 4u);
  journal.touch(0);
  CHECK(journal.claim(0, 9, claim));
  CHECK_EQ(claim.idle, 0u);

  CHECK(journal.claim(1, 9, claim));  // never had a gradient
  CHECK_EQ(claim.applied, 0u);
  CHECK_EQ(claim.idle, Journal::kRest);
  journal.mark_active(9);  // a dense gradient
  journal.mark_active(8);  // one that was overtaken
  CHECK(journal.claim(1, 12, claim));
  CHECK_EQ(claim.idle, 0u);
  CHECK(journal.claim(1, 13, claim));
  CHECK_EQ(claim.idle, 3u);

  CHECK(!journal.is_caught_up(1));
  journal.set_caught_up(13);
  journal.set_caught_up(12);
  CHECK(journal.is_caught_up(13));
  CHECK(!journal.is_caught_up(14));

  const OwnJournal loaded(3, false);  // state that came from elsewhere
  CHECK(loaded.journal.claim(2, 7, claim));
  CHECK_EQ(claim.idle, 0u);
  CHECK(loaded.journal.claim(2, 8, claim));
  CHECK_EQ(claim.idle, 7u);
}

// Threads that count pushes and claim the ones that one row missed: the claims add up to all of
// them.
void check_claims_of_threads() {
  constexpr std::size_t threads = 4;
  const auto pushes = static_cast<std::uint64_t>(count(200000, 20000));  // of each thread
  const OwnJournal own(1);
  const Journal& journal = own.journal;
  std::atomic<std::uint64_t> replayed{0};
  const auto claim_all = [&journal] {
    Journal::Claim claim{};
    const std::uint64_t now = journal.finished();
    return journal.claim(0, now, claim) ? now - claim.applied : 0;
  };
  run_threads(threads, [&](std::size_t thread) {
    std::uint64_t mine = 0;
    for (std::uint64_t i = 0; i < pushes; ++i) {
      const bool is_named = (i + thread) % 3 == 0;
      mine += claim_all();
      if (is_named) {
        journal.touch(0);
        ++mine;
      }
      journal.finish();
    }
    replayed.fetch_add(mine);
  });
  CHECK_EQ(replayed.load() + claim_all(), threads * pushes);
}

// Every row catches up four times while a record lasts.
void check_shares() {
  for (const std::size_t rows : {1u, 5u, 16u, 1000u, 100000u}) {
    const OwnJournal own(rows);
    constexpr std::uint64_t from = 1'000'000;
    std::vector<int> times(rows);
    for (std::uint64_t number = own.journal.oldest(from); number < from; ++number) {
      const Journal::Range share = own.journal.share(number);
      for (std::size_t row = share.begin; row < share.end; ++row) ++times[row];
    }
    CHECK(std::ranges::all_of(times, [](int n) { return n == 4; }));
  }
}

// A table of `rows` rows of two float64 elements in a store, and pushes to it.
struct Table {
  const Kernel& kernel;
  Group hyper;
  std::size_t rows;
  Store store;

  Table(const SyncInfo& sync, std::size_t workers, const char* rule, Named values, std::size_t n)
      : kernel(kernel_of(rule, "float64")),
        hyper(group_of(kernel, values)),
        rows(n),
        store(sync.name, workers, {{&kernel, 2 * n, n}}) {}

  PushResult push_rows(std::size_t worker, const std::vector<std::int64_t>& named, double grad) {
    const std::vector<double> grads(2 * named.size(), grad);
    Block block = store.blocks[0];
    block.grad = grads.data();
    block.rows = named.data();
    block.row_count = named.size();
    return send(worker, block, false);
  }
  PushResult push_all(double grad) {
    const std::vector<double> grads(2 * rows, grad);
    Block block = store.blocks[0];
    block.grad = grads.data();
    return send(0, block, false);
  }
  void catch_up(std::size_t worker, const std::vector<std::int64_t>& named = {}) {
    Block block = store.blocks[0];
    if (!named.empty()) block.rows = named.data();
    block.row_count = named.size();
    send(worker, block, true);
  }
  void check(const std::vector<double>& expected) const {
    for (std::size_t row = 0; row < rows; ++row)
      for (const std::size_t i : {2 * row, 2 * row + 1})
        CHECK_EQ(store.param<double>()[i], expected[row]);
  }

 private:
  PushResult send(std::size_t worker, const Block& block, bool catch_up) {
    Group group = hyper;
    group.blocks = {&block, 1};
    return push(store.segment, worker, {.groups = {&group, 1}, .catch_up = catch_up});
  }
};

template <class Body>
void for_each_sync_in_place(Body body) {
  for_each_sync([&](const SyncInfo& sync) {
    if (!sync.contract->replica) body(sync);
  });
}

// Momentum 1/2: each step without a gradient halves the buffer and takes it from the row.
void check_by_hand(const SyncInfo& sync) {
  Table table(sync, 1, "sgd_momentum", {{"lr", 1}, {"momentum", 0.5}}, 3);
  table.push_rows(0, {0}, 8);
  table.push_rows(0, {1}, 8);
  table.check({-8, -8, 0});
  table.push_rows(0, {0, 0}, 0);  // row 0 replays the second push, then takes this one
  table.check({-14, -8, 0});
  table.catch_up(0, {1, 1});
  table.check({-14, -12, 0});
  table.catch_up(0);
  table.catch_up(0);
  table.check({-14, -12, 0});
  CHECK_EQ(table.store.version(), 3u);

  table.push_all(8);  // buffers of 2, 4 and 0 before
  table.check({-23, -22, -8});
  table.push_rows(0, {2}, 0);
  table.check({-23, -22, -12});
  table.push_all(0);  // rows 0 and 1 catch up before: buffers of 4.5 and 5
  table.check({-29.75, -29.5, -14});
  CHECK_EQ(table.store.version(), 6u);
}

// Pushes and catch-ups of several threads; each row ends as if each push had decayed it.
void check_paid_once(const SyncInfo& sync) {
  constexpr std::size_t workers = 4, rows = 7;
  const auto pushes = static_cast<std::size_t>(count(3000, 500));  // of each thread but one
  Table table(sync, workers, "sgd", {{"lr", 0x1p-6}, {"weight_decay", 0x1p-6}}, rows);
  std::fill_n(table.store.param<double>(), 2 * rows, 1.0);
  run_threads(workers, [&](std::size_t worker) {
    std::mt19937 random(static_cast<std::uint32_t>(worker));
    const auto row = [&random] { return static_cast<std::int64_t>(random() % rows); };
    for (std::size_t i = 0; i < pushes; ++i) {
      const std::vector<std::int64_t> named{row(), row()};
      if (worker > 0)
        table.push_rows(worker, named, 0);
      else if (i % 2 == 0)
        table.catch_up(worker, named);
      else
        table.catch_up(worker);
    }
  });
  table.catch_up(0);
  const std::size_t total = (workers - 1) * pushes;
  CHECK_EQ(table.store.version(), total);
  const Journal journal(table.store.newest() + table.store.blocks[0].journal, rows,
                        table.kernel.coef_bytes);
  CHECK_EQ(journal.finished(), total);
  const double expected = std::pow(1 - 0x1p-12, static_cast<double>(total));
  for (std::size_t i = 0; i < 2 * rows; ++i) {
    CHECK_EQ(journal.applied(i / 2), total);
    const double w = table.store.param<double>()[i];
    CHECK_LE(expected * (1 - 1e-10), w);
    CHECK_LE(w, sync.contract->may_lose ? 1 : expected * (1 + 1e-10));
  }
}

// The share of a push leaves the rows that it names to the thread that applies their gradients.
void check_share_has_no_named_rows() {
  constexpr std::size_t rows = 64;
  std::vector<std::int64_t> every(rows);
  std::iota(every.begin(), every.end(), 0);
  for (const auto& [named, expected] : {std::pair{std::vector<std::int64_t>{0}, 2}, {every, 0}}) {
    Table table(sync_info(sync_index("mutex")), 1, "sgd_momentum", {{"momentum", 0.5}}, rows);
    for (int i = 0; i < 20; ++i) table.push_rows(0, {0}, 1);
    const std::vector<double> grads(2 * named.size(), 1);
    Block block = table.store.blocks[0];
    block.grad = grads.data();
    block.rows = named.data();
    block.row_count = named.size();
    Task task;
    Preparer({}, Phase::update, nullptr)(table.hyper, block, table.store.newest(), task);
    int replayed = 0;
    const auto each = [&replayed](const Update&, const Span&, std::uintptr_t, Tally&) {
      ++replayed;
    };
    Tally tally;
    std::size_t at = task.named();
    apply_range(task, at, task.count(), tally, each);
    CHECK_EQ(at, task.count());
    CHECK_EQ(replayed, expected);
  }
}

// A push by several threads equals one by a single thread, bit for bit.
void check_threads_of_one_push() {
  const Kernel& kernel = kernel_of("adam", "float32");
  constexpr std::size_t rows = 4096, width = 64;
  const auto run = [&](const Store& store, std::size_t threads) {
    Group group = group_of(
        kernel, {{"lr", 0.1}, {"beta1", 0.9}, {"beta2", 0.99}, {"eps", 1e-8}, {"weight_decay", 0}});
    std::mt19937 random(1);
    std::vector<std::int64_t> named(kParallel / width);
    std::vector<float> grads(named.size() * width);
    Numbers numbers(3);
    for (std::uint32_t t = 0; t < 10; ++t) {
      for (std::int64_t& row : named) row = random() % rows;
      for (float& g : grads) g = static_cast<float>(numbers());
      Block block = store.blocks[0];
      block.grad = grads.data();
      block.rows = named.data();
      block.row_count = named.size();
      group.blocks = {&block, 1};
      push(store.segment, 0, {.groups = {&group, 1}, .threads = threads, .seed = t});
    }
    group.blocks = store.blocks;
    push(store.segment, 0, {.groups = {&group, 1}, .threads = threads, .catch_up = true});
  };
  const Store alone("mutex", 1, {{&kernel, rows * width, rows}});
  run(alone, 1);
  for (const std::size_t threads : {2u, 3u}) {
    const Store together("mutex", 1, {{&kernel, rows * width, rows}});
    run(together, threads);
    CHECK(std::memcmp(alone.newest(), together.newest(), alone.config.data_bytes) == 0);
  }
}

}  // namespace

int main() {
  set_deadline();
  check_records();
  check_claims();
  check_claims_of_threads();
  check_shares();
  for_each_sync_in_place(check_by_hand);
  for_each_sync_in_place(check_paid_once);
  check_share_has_no_named_rows();
  check_threads_of_one_push();
}
