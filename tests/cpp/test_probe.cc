// Costs of sharing memory: results are finite, threads end, and the caller's affinity stays.
#include "asyncopt/probe/probe.h"

#include <sched.h>

#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

cpu_set_t affinity() {
  cpu_set_t mine;
  CHECK_EQ(sched_getaffinity(0, sizeof mine, &mine), 0);
  return mine;
}

std::vector<std::size_t> usable_processors() {
  std::vector<std::size_t> usable;
  const cpu_set_t mine = affinity();
  for (std::size_t i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &mine)) usable.push_back(i);
  return usable;
}

std::ptrdiff_t threads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
}

void check_cost(double seconds) {
  CHECK(std::isfinite(seconds));
  CHECK_LE(0, seconds);
}

void check_words(const Processors& two) {
  const WordCosts costs = probe_words(two);
  for (const double cost : {costs.transfer, costs.lock, costs.sleep, costs.wake, costs.wake_call})
    check_cost(cost);
}

// Blocks of one line and more, dense and in rows, a push at a time round and round.
void check_lines(const Processors& two) {
  const std::vector<std::int64_t> all{0}, rows{0, 5, 63, 7, 5, 9}, last{62};
  for (const Touches& touches : {Touches{1, 1, 1, all}, Touches{64, 64, 1, all},
                                 Touches{64, 1, 3, rows}, Touches{64, 2, 1, last}}) {
    const LineCosts costs = probe_lines(two, touches);
    for (const LineCost& cost : {costs.update, costs.exchange, costs.copy, costs.snapshot}) {
      check_cost(cost.own);
      check_cost(cost.remote);
    }
    check_cost(costs.check);
  }
}

void check_refusals(const Processors& two) {
  const Processors twice{two[0], two[0]}, nowhere{two[0], CPU_SETSIZE};
  CHECK_THROWS(std::invalid_argument, "processors: expected two", probe_words(twice));
  CHECK_THROWS(std::system_error, "binding a thread", probe_words(nowhere));
  const std::vector<std::int64_t> starts{0, 63}, negative{-1};
  for (const Touches& none :
       {Touches{0, 1, 1, starts}, Touches{64, 0, 1, starts}, Touches{64, 1, 0, starts},
        Touches{64, 1, 1, {}}, Touches{64, 1, 3, starts}})
    CHECK_THROWS(std::invalid_argument, "touches: expected lines", probe_lines(two, none));
  for (const Touches& outside : {Touches{63, 1, 1, starts}, Touches{64, 2, 1, starts},
                                 Touches{64, 65, 1, starts}, Touches{64, 1, 1, negative}})
    CHECK_THROWS(std::invalid_argument, "starts: expected", probe_lines(two, outside));
  const std::vector<std::int64_t> first{0};
  CHECK_THROWS(std::system_error, "binding a thread", probe_lines(nowhere, {1, 1, 1, first}));
}

}  // namespace

int main() {
  set_deadline();
  const std::vector<std::size_t> usable = usable_processors();
  if (usable.size() < 2) return 0;  // nothing to share
  const Processors two{usable[0], usable[1]};
  const cpu_set_t before = affinity();
  std::thread([] {}).join();  // the thread sanitizer starts one of its own beside the first
  const std::ptrdiff_t alone = threads();
  check_words(two);
  check_lines(two);
  check_refusals(two);
  while (threads() != alone) std::this_thread::yield();  // until the deadline
  const cpu_set_t after = affinity();
  CHECK(CPU_EQUAL(&before, &after));  // of the caller
}
