// Blocks of examples cut into pieces without a common column.
#include "asyncopt/models/linear/conflicts.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <set>
#include <string>

#include "check.h"
#include "linear.h"

using namespace asyncopt;
using namespace asyncopt::test;
using asyncopt::linear::Conflicts;
using asyncopt::linear::kPieces;

namespace {

// Allocations of a thread that helps which still succeed; negative: all do.
std::atomic<int> allocations_left{-1};

}  // namespace

extern "C" int omp_get_num_threads();  // of tests/cpp/openmp.cc; 1 outside of parallel regions

__attribute__((noinline)) void* operator new(std::size_t size) {
  if (allocations_left.load() >= 0 && omp_get_num_threads() > 1 &&
      allocations_left.fetch_sub(1) <= 0) {
    allocations_left.store(0);
    throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
// std::stable_sort asks for memory that it can do without.
__attribute__((noinline)) void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size);
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace {

Conflicts find(const Examples& examples, const std::vector<std::int64_t>& rows, std::size_t block,
               std::size_t threads) {
  return linear::find_conflicts(std::span<const std::int64_t>(examples.begin),
                                std::span<const std::int32_t>(examples.column), examples.columns,
                                rows, block, threads);
}

std::vector<std::int64_t> backwards(std::size_t rows) {
  std::vector<std::int64_t> order(rows);
  for (std::size_t i = 0; i < rows; ++i) order[i] = static_cast<std::int64_t>(rows - 1 - i);
  return order;
}

std::set<std::int32_t> columns_of(const Examples& examples, std::int64_t row) {
  const auto i = static_cast<std::size_t>(row);
  return {examples.column.begin() + examples.begin[i],
          examples.column.begin() + examples.begin[i + 1]};
}

// By hand: rows 0 and 2 share column 0, 2 and 3 column 1; 1 is alone; 4 has no column.
void check_by_hand() {
  current_case = "by hand";
  Examples examples(6, {1, 2, 2, 1, 0}, 1);
  examples.column = {0, 4, 5, 0, 1, 1};
  const std::vector<std::int64_t> rows{0, 1, 2, 3, 4};
  const Conflicts found = find(examples, rows, 5, 1);
  CHECK_EQ(found.pieces.size(), kPieces + 1);
  CHECK(found.rows == (std::vector<std::int64_t>{0, 2, 3, 1, 4}));
  CHECK(std::vector<std::int64_t>(found.pieces.begin(), found.pieces.begin() + 5) ==
        (std::vector<std::int64_t>{0, 3, 4, 5, 5}));
  CHECK_LE(std::fabs(found.longest - 7.0 / 11), 1e-12);  // 3 rows and 4 entries, of 5 and 6
}

void check_pieces() {
  for (const std::size_t columns : {40, 400, 20000})
    for (const std::size_t block : {1, 7, 64, 1000}) {
      current_case = std::to_string(columns) + " columns, blocks of " + std::to_string(block);
      const Examples examples(columns, std::vector<std::size_t>(150, 3), 5);
      const std::vector<std::int64_t> rows = backwards(150);
      const Conflicts found = find(examples, rows, block, 1);
      const std::size_t blocks = (rows.size() + block - 1) / block;
      CHECK_EQ(found.pieces.size(), blocks * kPieces + 1);
      CHECK(std::ranges::is_sorted(found.pieces));
      for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t first = b * block, last = std::min(first + block, rows.size());
        CHECK_EQ(static_cast<std::size_t>(found.pieces[b * kPieces]), first);
        CHECK_EQ(static_cast<std::size_t>(found.pieces[(b + 1) * kPieces]), last);
        const auto of = [&](const std::vector<std::int64_t>& all) {
          return std::multiset<std::int64_t>(all.begin() + static_cast<std::ptrdiff_t>(first),
                                             all.begin() + static_cast<std::ptrdiff_t>(last));
        };
        CHECK(of(rows) == of(found.rows));
        std::set<std::int32_t> taken;  // by the pieces before
        for (std::size_t p = b * kPieces; p < (b + 1) * kPieces; ++p) {
          std::set<std::int32_t> mine;
          for (auto i = static_cast<std::size_t>(found.pieces[p]);
               i < static_cast<std::size_t>(found.pieces[p + 1]); ++i) {
            const bool in_order = i == static_cast<std::size_t>(found.pieces[p]) ||
                                  found.rows[i] < found.rows[i - 1];  // rows went backwards
            CHECK(in_order);
            mine.merge(columns_of(examples, found.rows[i]));
          }
          for (const std::int32_t u : mine) CHECK(taken.insert(u).second);
        }
      }
    }
}

// Many small components are dealt evenly; one large one stays whole.
void check_longest() {
  current_case = "longest";
  Examples apart(160, std::vector<std::size_t>(160, 1), 1);
  for (std::size_t i = 0; i < 160; ++i) apart.column[i] = static_cast<std::int32_t>(i);
  CHECK_LE(std::fabs(find(apart, backwards(160), 160, 1).longest - 1.0 / kPieces), 1e-12);
  const Examples together(1, std::vector<std::size_t>(160, 1), 1);
  CHECK_EQ(find(together, backwards(160), 160, 1).longest, 1.0);
  CHECK_EQ(find(together, {}, 160, 1).longest, 0.0);
}

void check_threads() {
  current_case = "threads";
  const Examples examples(3000, std::vector<std::size_t>(3000, 3), 9);
  const Conflicts one = find(examples, backwards(3000), 64, 1);
  for (const std::size_t threads : {2, 3, 100}) {
    const Conflicts many = find(examples, backwards(3000), 64, threads);
    CHECK(many.rows == one.rows);
    CHECK(many.pieces == one.pieces);
    CHECK_EQ(many.longest, one.longest);
  }
}

// Memory that runs out in a thread is an exception of the call, not the end of the process.
void check_memory_runs_out() {
  current_case = "memory runs out";
  const Examples examples(300, std::vector<std::size_t>(300, 3), 9);
  const Conflicts whole = find(examples, backwards(300), 64, 3);
  int failures = 0;
  for (int left = 0;; left += 7) {
    allocations_left.store(left);
    try {
      const Conflicts found = find(examples, backwards(300), 64, 3);
      allocations_left.store(-1);
      CHECK(found.rows == whole.rows);
      break;
    } catch (const std::bad_alloc&) {
      allocations_left.store(-1);
      ++failures;
    }
  }
  CHECK_LE(5, failures);
}

}  // namespace

int main() {
  check_by_hand();
  check_pieces();
  check_longest();
  check_threads();
  check_memory_runs_out();
}
