// Graph cuts: single steps against float64, sums of several threads, and ordered threads.
#include <algorithm>
#include <numeric>

#include "asyncopt/models/cuts/trainer.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr auto kGoOn = [] { return true; };
constexpr std::int64_t kWhole[] = {0, 1}, kFirst[] = {0};

// Vertices with a share in each class, and edges between them.
struct Problem {
  std::size_t classes, stride;
  std::vector<float> shares;
  std::vector<std::uint8_t> fixed;
  std::vector<std::int32_t> tails, heads;
  std::vector<float> weights;

  Problem(std::size_t classes_, std::size_t vertices)
      : classes(classes_),
        stride(cuts::stride_of(classes_)),
        shares(vertices * stride),
        fixed(vertices) {}
  float* row(std::size_t v) { return shares.data() + v * stride; }
  void add(std::size_t tail, std::size_t head, float weight) {
    tails.push_back(static_cast<std::int32_t>(tail));
    heads.push_back(static_cast<std::int32_t>(head));
    weights.push_back(weight);
  }
  cuts::Pass pass(const Tiles& tiles, float rate) const {
    return {{tails.data(), heads.data(), weights.data()}, tiles, rate};
  }
  cuts::Model model() { return {shares.data(), fixed.data(), classes}; }
};

using Row = std::vector<double>;

// The nearest point of the simplex, by sorting (Duchi et al., ICML 2008, figure 1).
Row projected(Row row) {
  Row sorted = row;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double sum = 0, threshold = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    sum += sorted[i];
    const double t = (sum - 1) / static_cast<double>(i + 1);
    if (sorted[i] > t) threshold = t;
  }
  for (double& share : row) share = std::max(share - threshold, 0.0);
  return row;
}

// At random in the simplex, about half of it zeros; one class alone if `corner`.
void fill(float* row, std::size_t classes, bool corner, std::mt19937& random) {
  std::exponential_distribution<float> draw;
  if (!corner)
    for (std::size_t c = 0; c < classes; ++c) row[c] = random() % 2 == 0 ? draw(random) : 0;
  const float sum = std::accumulate(row, row + classes, 0.0f);
  if (sum == 0)
    row[random() % classes] = 1;
  else
    for (std::size_t c = 0; c < classes; ++c) row[c] /= sum;
}

// One edge's step: as far as `rate` allows, and as far as where its ends meet.
void check_step() {
  std::mt19937 random(1);
  const float weight = 1.5f;
  for (const std::size_t classes : {1, 2, 3, 15, 16, 17, 32, 40, 1024})
    for (const float rate : {0.01f, 0.2f, 10.0f})
      for (const int fixed : {-1, 0, 1})
        for (int again = 0; again < 5; ++again) {
          current_case = std::to_string(classes) + " classes, rate " + std::to_string(rate) +
                         ", fixed " + std::to_string(fixed);
          Problem p(classes, 2);
          for (const std::size_t v : {0, 1}) {
            p.fixed[v] = static_cast<int>(v) == fixed;
            fill(p.row(v), classes, p.fixed[v] != 0, random);
          }
          p.add(0, 1, weight);
          Row a(p.row(0), p.row(0) + classes), b(p.row(1), p.row(1) + classes);
          double distance = 0;
          for (std::size_t c = 0; c < classes; ++c) {
            const double most = static_cast<double>(rate * weight) / 2;
            const double gap = b[c] - a[c], part = fixed < 0 ? 0.5 : 1;
            const double move = std::clamp(part * gap, -most, most);
            distance += std::fabs(gap);
            if (fixed != 0) a[c] += move;
            if (fixed != 1) b[c] -= move;
          }
          const auto loss =
              cuts::train(cuts::kSyncs[0], 1, p.pass({kWhole, kFirst, 1}, rate), p.model(), kGoOn);
          CHECK_LE(std::fabs(*loss - static_cast<double>(weight) * distance / 2), 1e-5);
          const Row expected[] = {projected(a), projected(b)};
          for (const std::size_t v : {0, 1})
            for (std::size_t c = 0; c < p.stride; ++c) {
              const double there = c < classes ? expected[v][c] : 0;
              CHECK_LE(std::fabs(static_cast<double>(p.row(v)[c]) - there), 2e-6);
            }
        }
}

// Four groups of vertices, each with one that is fixed to class 0. An edge from it moves the other
// end by exactly 2^-23, so that lost updates can be counted. Groups play a tournament.
void check_counts() {
  constexpr std::size_t size = 8, groups = 4, per_tile = 200;
  constexpr int none = -1;
  constexpr int rounds[groups][groups][2] = {
      {{0, 1}, {2, 3}, {none, none}, {none, none}},
      {{0, 2}, {1, 3}, {none, none}, {none, none}},
      {{0, 3}, {1, 2}, {none, none}, {none, none}},
      {{0, 0}, {1, 1}, {2, 2}, {3, 3}},
  };
  const auto passes = static_cast<int>(often(200, 20));
  for (const cuts::Sync& sync : cuts::kSyncs) {
    current_case = sync.name;
    Problem p(2, size * groups);
    for (std::size_t v = 0; v < size * groups; ++v) {
      p.fixed[v] = v % size == 0;
      p.row(v)[0] = p.fixed[v] != 0 ? 1 : 0.5f;
      p.row(v)[1] = 1 - p.row(v)[0];
    }
    std::mt19937 random(1);
    std::vector<std::int64_t> begin{0}, order(groups * groups);
    std::vector<int> visits(size * groups);
    std::iota(order.begin(), order.end(), 0);
    for (const auto& round : rounds)
      for (const auto& pair : round) {
        for (std::size_t e = 0; e < per_tile && pair[0] != none; ++e) {
          const std::size_t from = e % 2, to = 1 - from;
          const std::size_t terminal = static_cast<std::size_t>(pair[from]) * size;
          const std::size_t other =
              static_cast<std::size_t>(pair[to]) * size + 1 + random() % (size - 1);
          e % 4 < 2 ? p.add(terminal, other, 1) : p.add(other, terminal, 1);
          ++visits[other];
        }
        begin.push_back(static_cast<std::int64_t>(p.tails.size()));
      }
    constexpr float step = 0x1p-23f;
    for (int pass = 0; pass < passes; ++pass)
      CHECK(cuts::train(sync, 4, p.pass({begin, order, groups}, 2 * step), p.model(), kGoOn));
    const bool exact = sync.locks > 0 || sync.ordered;
    for (std::size_t v = 0; v < size * groups; ++v) {
      const float all = p.fixed[v] != 0 ? 1 : 0.5f + step * static_cast<float>(visits[v] * passes);
      CHECK_LE(p.row(v)[0], all);
      CHECK_LE(0.5f, p.row(v)[0]);
      if (exact) CHECK_EQ(p.row(v)[0], all);
      if (exact) CHECK_EQ(p.row(v)[0] + p.row(v)[1], 1.0f);
    }
  }
}

void check_stop() {
  current_case = "stop";
  Problem p(2, 2);
  p.row(0)[0] = p.row(1)[1] = 1;
  for (int e = 0; e < 100; ++e) p.add(0, 1, 1);
  const std::int64_t begin[] = {0, 100};
  const std::vector<std::int64_t> order(500'000, 0);
  bool stopped = false;
  const auto start = Clock::now();
  while (!stopped && seconds_since(start) < 20)
    stopped = !cuts::train(cuts::kSyncs[0], 3, p.pass({begin, order, 1}, 1e-6f), p.model(),
                           [] { return false; });
  CHECK(stopped);
}

}  // namespace

int main() {
  set_deadline();
  check_step();
  check_counts();
  check_stop();
}
