// A stand-in for an OpenMP runtime, which parallel_for looks up by these names. It is made of
// std::thread, whose hand-overs ThreadSanitizer knows; teams have at most 4 members, and regions
// inside regions 1, as a runtime may decide.
#include <algorithm>
#include <thread>
#include <vector>

namespace {
thread_local int number = 0;
thread_local int team = 1;
thread_local bool inside = false;
}  // namespace

#define ASYNCOPT_VISIBLE extern "C" __attribute__((visibility("default")))

ASYNCOPT_VISIBLE int omp_get_thread_num() { return number; }
ASYNCOPT_VISIBLE int omp_get_num_threads() { return team; }

ASYNCOPT_VISIBLE void GOMP_parallel(void (*region)(void*), void* data, unsigned threads, unsigned) {
  const int before = number, members = inside ? 1 : static_cast<int>(std::min(threads, 4u));
  const int team_before = team;
  const bool inside_before = inside;
  const auto member = [=](int i) {
    number = i;
    team = members;
    inside = true;
    region(data);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < members; ++i) others.emplace_back(member, i);
  member(0);
  for (std::thread& each : others) each.join();
  number = before;
  team = team_before;
  inside = inside_before;
}
