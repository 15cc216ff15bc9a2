// Matrix factorization: single steps against float64, random draws, sums of several threads, and
// ordered threads.
#include <algorithm>
#include <numeric>

#include "asyncopt/models/factors/trainer.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr auto kGoOn = [] { return true; };

const factors::Kernel& kernel_of(std::string_view loss) {
  for (const factors::Kernel& k : factors::kernels())
    if (loss == k.loss) return k;
  fail(__FILE__, __LINE__, "no such kernel");
}

// Users and items with `k` factors each, in memory of their own.
struct Problem {
  std::size_t k, stride, user_count, item_count;
  std::vector<float> users, items, user_rates, item_rates;
  std::vector<std::int32_t> user, item;
  std::vector<float> value;
  std::vector<std::int64_t> liked_begin;
  std::vector<std::int32_t> liked;

  Problem(std::size_t k_, std::size_t user_count_, std::size_t item_count_, float scale, float rate)
      : k(k_),
        stride(factors::stride_of(k_)),
        user_count(user_count_),
        item_count(item_count_),
        users(user_count * stride),
        items(item_count * stride),
        user_rates(stride),
        item_rates(stride),
        liked_begin(user_count + 1) {
    std::mt19937 random(static_cast<std::uint32_t>(k));
    std::normal_distribution<float> normal(0, scale);
    for (std::size_t u = 0; u < user_count; ++u) fill(users.data() + u * stride, k, random, normal);
    for (std::size_t i = 0; i < item_count; ++i)
      fill(items.data() + i * stride, k + 1, random, normal);
    for (std::size_t l = 0; l < k + 2; ++l) user_rates[l] = item_rates[l] = rate;
    user_rates[k] = item_rates[k + 1] = 0;
  }
  void fill(float* row, std::size_t one, std::mt19937& random,
            std::normal_distribution<float>& normal) const {
    for (std::size_t l = 0; l < k + 2; ++l) row[l] = l == one ? 1 : normal(random);
  }
  void add(std::int32_t u, std::int32_t i, float r) {
    user.push_back(u);
    item.push_back(i);
    value.push_back(r);
  }
  // From entries in the order of their users, and of each user's items.
  void like() {
    liked = item;
    for (const std::int32_t u : user) ++liked_begin[static_cast<std::size_t>(u) + 1];
    std::partial_sum(liked_begin.begin(), liked_begin.end(), liked_begin.begin());
  }
  factors::Pass pass(std::span<const std::int64_t> begin, std::span<const std::int64_t> order,
                     std::size_t groups, float regularization, float mean,
                     std::uint64_t seed) const {
    return {{user.data(), item.data(), value.data()},
            {liked_begin.data(), liked.data(), item_count},
            {begin, order, groups},
            {user_rates.data(), item_rates.data(), regularization, mean, seed}};
  }
  factors::Model model() { return {users.data(), items.data(), stride}; }
};

constexpr std::int64_t kWhole[] = {0, 1}, kFirst[] = {0};

// One entry's step beside the textbook's gradients in float64, with a number of factors that fills
// lanes and with numbers around it.
void check_squared_step() {
  const float regularization = 0.1f, mean = 0.5f, rate = 0.05f, rating = 2;
  for (const std::size_t k : {1, 13, 14, 15, 30, 46, 64})
    for (const bool atomic : {false, true}) {
      current_case = "squared_error " + std::to_string(k);
      Problem p(k, 1, 1, 0.3f, rate);
      p.add(0, 0, rating);
      const std::vector<float> a = p.users, b = p.items;
      double predicted = static_cast<double>(mean);
      for (std::size_t l = 0; l < k + 2; ++l)
        predicted += static_cast<double>(a[l]) * static_cast<double>(b[l]);
      const double error = static_cast<double>(rating) - predicted;
      const auto loss =
          factors::train(kernel_of("squared_error"), factors::kSyncs[atomic], 1,
                         p.pass(kWhole, kFirst, 1, regularization, mean, 0), p.model(), kGoOn);
      CHECK_LE(std::fabs(*loss - error * error / 2), 1e-5);
      const auto moved = [&](const std::vector<float>& from, const std::vector<float>& other,
                             std::size_t l, std::size_t one) {
        const double w = static_cast<double>(from[l]), x = static_cast<double>(other[l]);
        if (l == one || l >= k + 2) return w;
        return w +
               static_cast<double>(rate) * (error * x - static_cast<double>(regularization) * w);
      };
      for (std::size_t l = 0; l < p.stride; ++l) {
        CHECK_LE(std::fabs(static_cast<double>(p.users[l]) - moved(a, b, l, k)), 1e-6);
        CHECK_LE(std::fabs(static_cast<double>(p.items[l]) - moved(b, a, l, k + 1)), 1e-6);
      }
    }
}

// The user likes the first of two items, so the second is always drawn.
void check_bpr_step() {
  const float regularization = 0.1f, rate = 0.05f;
  for (const std::size_t k : {1, 14, 30})
    for (const bool atomic : {false, true}) {
      current_case = "bpr " + std::to_string(k);
      Problem p(k, 1, 2, 0.5f, rate);
      p.add(0, 0, 1);
      p.like();
      const std::vector<float> a = p.users, b = p.items;
      double margin = 0;
      for (std::size_t l = 0; l < k + 2; ++l)
        margin += static_cast<double>(a[l]) * static_cast<double>(b[l] - b[p.stride + l]);
      const double wrong = 1 / (1 + std::exp(margin));
      const auto loss =
          factors::train(kernel_of("bpr"), factors::kSyncs[atomic], 1,
                         p.pass(kWhole, kFirst, 1, regularization, 0, 5), p.model(), kGoOn);
      CHECK_LE(std::fabs(*loss - std::log1p(std::exp(-margin))), 1e-5);
      for (std::size_t l = 0; l < k + 2; ++l) {
        const auto near = [&](float got, float from, double pull, bool one) {
          const double w = static_cast<double>(from);
          const double step =
              static_cast<double>(rate) * (wrong * pull - static_cast<double>(regularization) * w);
          CHECK_LE(std::fabs(static_cast<double>(got) - (one ? w : w + step)), 1e-6);
        };
        const std::size_t m = p.stride + l;
        near(p.users[l], a[l], static_cast<double>(b[l] - b[m]), l == k);
        near(p.items[l], b[l], static_cast<double>(a[l]), l == k + 1);
        near(p.items[m], b[m], -static_cast<double>(a[l]), l == k + 1);
      }
    }
}

// With factors and regularization of 0 every draw lowers one bias by the rate and raises that of
// the liked item: what is drawn can be counted.
void check_draws() {
  current_case = "draws";
  constexpr std::size_t items = 20;
  constexpr int passes = 2000;
  Problem p(1, 2, items, 0, 0);
  for (const std::int32_t liked : {3, 7, 8}) p.add(0, liked, 1);
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(items); ++i) p.add(1, i, 1);
  p.like();
  const std::int64_t begin[] = {0, static_cast<std::int64_t>(p.user.size())};
  constexpr float step = 0x1p-20f;  // so small that the margin stays 0, and half of it is added
  p.item_rates[1] = step;
  for (std::uint64_t seed = 0; seed < passes; ++seed)
    CHECK(factors::train(kernel_of("bpr"), factors::kSyncs[0], 1,
                         p.pass(begin, kFirst, 1, 0, 0, seed), p.model(), kGoOn));
  // The second user likes everything, so that none of its entries makes a step.
  const double expected = 3.0 * passes / (items - 3);
  for (std::size_t i = 0; i < items; ++i) {
    const double drawn = -static_cast<double>(p.items[i * p.stride + 1] / (step / 2));
    if (i == 3 || i == 7 || i == 8)
      CHECK_LE(std::fabs(drawn + passes), 5);
    else
      CHECK_LE(std::fabs(drawn - expected), 5 * std::sqrt(expected));
  }
}

// Counted in the same way for a user who likes much: every entry makes a step, and the entries of a
// pass draw independently of each other.
void check_draws_against_many_liked_items() {
  constexpr std::int32_t items = 2000;
  constexpr std::uint64_t passes = 40;
  for (const std::int32_t unliked_of_20 : {1, 2, 10}) {
    current_case = "draws, unliked: " + std::to_string(unliked_of_20) + " of 20";
    Problem p(1, 1, items, 0, 0);
    for (std::int32_t i = 0; i < items; ++i)
      if (i * 7 % 20 >= unliked_of_20) p.add(0, i, 1);
    p.like();
    const std::int64_t begin[] = {0, static_cast<std::int64_t>(p.user.size())};
    constexpr float step = 0x1p-20f;
    p.item_rates[1] = step;
    for (std::uint64_t seed = 0; seed < passes; ++seed)
      CHECK(factors::train(kernel_of("bpr"), factors::kSyncs[0], 1,
                           p.pass(begin, kFirst, 1, 0, 0, seed), p.model(), kGoOn));
    const double unliked = items * unliked_of_20 / 20.0;
    const double entries = static_cast<double>(p.user.size() * passes);
    const double expected = entries / unliked;
    double all = 0, chi_squared = 0;
    for (std::int32_t i = 0; i < items; ++i) {
      if (i * 7 % 20 >= unliked_of_20) continue;
      const float bias = p.items[static_cast<std::size_t>(i) * p.stride + 1];
      const double drawn = -static_cast<double>(bias / (step / 2));
      all += drawn;
      chi_squared += (drawn - expected) * (drawn - expected) / expected;
    }
    CHECK_LE(std::fabs(all / entries - 1), 0.01);
    CHECK_LE(chi_squared / (unliked - 1), 1.4);
  }
}

// A rating of 2^40 is an error of 2^40 whatever is predicted, and times a rate of 2^-40 adds
// exactly 1 to both biases: lost updates can be counted.
void check_counts() {
  constexpr std::size_t size = 50, groups = 4, per_tile = 200;
  for (const factors::Sync& sync : factors::kSyncs) {
    current_case = sync.name;
    Problem p(5, size, size, 0, 0);
    p.user_rates[6] = p.item_rates[5] = 0x1p-40f;
    std::mt19937 random(1);
    std::vector<std::int64_t> begin{0}, order;
    for (std::size_t tile = 0; tile < groups * groups; ++tile) {
      for (std::size_t e = 0; e < per_tile; ++e)
        p.add(static_cast<std::int32_t>(random() % (size / groups) * groups + tile / groups),
              static_cast<std::int32_t>(random() % (size / groups) * groups + tile % groups),
              0x1p40f);
      begin.push_back(static_cast<std::int64_t>(p.user.size()));
    }
    for (std::size_t shift = 0; shift < groups; ++shift)
      for (std::size_t g = 0; g < groups; ++g)
        order.push_back(static_cast<std::int64_t>(g * groups + (g + shift) % groups));
    std::vector<float> expected(2 * size);
    for (std::size_t e = 0; e < p.user.size(); ++e) {
      ++expected[static_cast<std::size_t>(p.user[e])];
      ++expected[size + static_cast<std::size_t>(p.item[e])];
    }
    const auto passes = static_cast<int>(often(50, 5));
    for (int pass = 0; pass < passes; ++pass)
      CHECK(factors::train(kernel_of("squared_error"), sync, 4,
                           p.pass(begin, order, groups, 0, 0, 0), p.model(), kGoOn));
    const bool exact = sync.atomic || sync.locked || sync.ordered;
    for (std::size_t i = 0; i < size; ++i) {
      const float all[] = {expected[i] * static_cast<float>(passes),
                           expected[size + i] * static_cast<float>(passes)};
      const float got[] = {p.users[i * p.stride + 6], p.items[i * p.stride + 5]};
      for (int side = 0; side < 2; ++side) {
        if (exact) CHECK_EQ(got[side], all[side]);
        CHECK_LE(0.0f, got[side]);
        CHECK_LE(got[side], all[side]);
      }
    }
  }
}

void check_stop() {
  current_case = "stop";
  Problem p(5, 1, 1, 0.1f, 0.01f);
  for (int e = 0; e < 100; ++e) p.add(0, 0, 1);
  const std::int64_t begin[] = {0, 100};
  const std::vector<std::int64_t> order(500'000, 0);
  bool stopped = false;
  const auto start = Clock::now();
  while (!stopped && seconds_since(start) < 20)
    stopped = !factors::train(kernel_of("squared_error"), factors::kSyncs[0], 3,
                              p.pass(begin, order, 1, 0, 0, 0), p.model(), [] { return false; });
  CHECK(stopped);
}

}  // namespace

int main() {
  set_deadline();
  check_squared_step();
  check_bpr_step();
  check_draws();
  check_draws_against_many_liked_items();
  check_counts();
  check_stop();
}
