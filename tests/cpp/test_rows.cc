// The order in which the rows of a sparse gradient are visited, against a map.
#include <map>
#include <random>
#include <vector>

#include "asyncopt/push/rows.h"
#include "check.h"

using namespace asyncopt;

namespace {

void check(const std::vector<std::int64_t>& rows) {
  std::map<std::size_t, std::vector<std::size_t>> expected;
  for (std::size_t place = 0; place < rows.size(); ++place)
    expected[static_cast<std::size_t>(rows[place])].push_back(place);

  const RowOrder order(rows);
  CHECK_EQ(order.size(), expected.size());
  std::size_t i = 0;
  for (const auto& [row, places] : expected) {
    CHECK_EQ(order.row(i), row);
    CHECK_EQ(order.place(i), places[0]);
    CHECK_EQ(order.is_repeated(i), places.size() > 1);
    std::vector<std::size_t> found;
    order.for_each_place(i, [&found](std::size_t place) { found.push_back(place); });
    CHECK(found == places);
    ++i;
  }
}

}  // namespace

int main() {
  check({});
  check({5});
  check({0, 1, 2, 2, 9});
  check({3, 1, 3, 0, 1, 3});
  check(std::vector<std::int64_t>(1000, 7));
  std::mt19937_64 random(1);
  // Few and many, of tables whose row numbers have from one to four digits of the sort.
  for (const std::size_t count : {20u, 127u, 128u, 5000u})
    for (const unsigned bits : {1u, 5u, 11u, 12u, 22u, 23u, 40u}) {
      std::vector<std::int64_t> rows(count);
      for (std::int64_t& row : rows) row = static_cast<std::int64_t>(random() >> (64 - bits));
      check(rows);
    }
}
