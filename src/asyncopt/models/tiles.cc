#include "asyncopt/models/tiles.h"

#include <numeric>
#include <vector>

#include "asyncopt/base/tasks.h"

namespace asyncopt {

std::optional<double> share_tiles(std::size_t threads, const Tiles& tiles, bool ordered,
                                  const std::function<bool()>& go_on,
                                  const std::function<double(std::size_t, std::size_t)>& step) {
  const std::size_t count = tiles.order.size();
  std::vector<std::size_t> after;
  if (ordered)
    for (std::size_t t = 0; t < count; ++t) after.push_back(t / tiles.groups * tiles.groups);
  std::vector<double> sums(count);
  const bool whole = share_tasks(threads, count, after, go_on, [&](Member& member) {
    while (const auto place = member.take()) {
      const auto tile = static_cast<std::size_t>(tiles.order[*place]);
      sums[*place] = step(static_cast<std::size_t>(tiles.begin[tile]),
                          static_cast<std::size_t>(tiles.begin[tile + 1]));
    }
  });
  if (!whole) return std::nullopt;
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace asyncopt
