// Stochastic gradient steps on ratings (Koren et al., Computer 2009) and on rankings (BPR: Rendle
// et al., UAI 2009).
//
// Memory is accessed as in asyncopt/kernels/racy.h: `Racy` with plain vectors that race on
// purpose, `Exact` by compare-exchange of each float.
#pragma once

#include <algorithm>

#include "asyncopt/kernels/lanes.h"
#include "asyncopt/models/factors/kernels.h"

namespace asyncopt::ASYNCOPT_ISA::factors {

using namespace asyncopt::factors;
using asyncopt::factors::Kernel;  // hides the Kernel of the dense rules

struct Racy {
  // Steps on the floats at `at`, last read as `w`: w += rate (pull - regularization w).
  static ASYNCOPT_INLINE void move(float* at, const Lanes& w, const Lanes& rate, const Lanes& pull,
                                   float regularization) {
    racy_store(w + rate * (pull - regularization * w), at);
  }
};

struct Exact {
  static ASYNCOPT_INLINE void move(float* at, const Lanes&, const Lanes& rate, const Lanes& pull,
                                   float regularization) {
    for (std::size_t l = 0; l < kLanes; ++l)
      if (rate[l] != 0)
        exchange(at + l, [&](float& w) { w += rate[l] * (pull[l] - regularization * w); });
  }
};

struct SquaredError {
  static constexpr const char* name = "squared_error";
  static constexpr bool ranks = false;

  template <class Access>
  static double loop(const Entries& entries, const Liked&, std::size_t first, std::size_t last,
                     const Model& m, const Settings& s) {
    const auto user = [&](std::size_t k) {
      return m.users + static_cast<std::size_t>(entries.users[k]) * m.stride;
    };
    const auto item = [&](std::size_t k) {
      return m.items + static_cast<std::size_t>(entries.items[k]) * m.stride;
    };
    double losses = 0;
    for (std::size_t k = first; k < last; ++k) {
      const std::size_t later = std::min(k + kAhead, last - 1);
      prefetch_row(user(later), m.stride);
      prefetch_row(item(later), m.stride);
      float *const p = user(k), *const q = item(k);
      Lanes sums{}, a, b, rate;
      for (std::size_t l = 0; l < m.stride; l += kLanes) {
        racy_load(a, p + l);
        racy_load(b, q + l);
        sums += a * b;
      }
      const float error = entries.values[k] - s.mean - sum(sums);
      losses += static_cast<double>(error * error / 2);
      for (std::size_t l = 0; l < m.stride; l += kLanes) {
        racy_load(a, p + l);
        racy_load(b, q + l);
        load(rate, s.user_rates + l);
        Access::move(p + l, a, rate, error * b, s.regularization);
        load(rate, s.item_rates + l);
        Access::move(q + l, b, rate, error * a, s.regularization);
      }
    }
    return losses;
  }
};

// Compares a user's liked item with one drawn from the items that the user does not like.
struct Bpr {
  static constexpr const char* name = "bpr";
  static constexpr bool ranks = true;
  static constexpr std::int32_t kNone = -1;

  // Draws one of the user's unliked items uniformly, as a function of k and seed. kNone: the user
  // likes all. The n-th unliked item is n plus the number of liked ones before it, which a binary
  // search finds, so no draw is rejected.
  static ASYNCOPT_INLINE std::int32_t draw(const Liked& liked, std::int32_t user, std::uint64_t k,
                                           std::uint64_t seed) {
    const std::int32_t* const mine = liked.items + liked.begin[user];
    std::size_t left = static_cast<std::size_t>(liked.begin[user + 1] - liked.begin[user]);
    if (left >= liked.item_count) return kNone;
    const auto n = static_cast<std::int32_t>(
        (random_bits(seed + k * 0x9E3779B97F4A7C15) >> 32) * (liked.item_count - left) >> 32);
    std::size_t before = 0;  // liked items; mine[i] - i unliked ones precede the i-th of them
    while (left > 0) {
      const std::size_t half = left / 2, middle = before + half;
      const bool is_before = mine[middle] - static_cast<std::int32_t>(middle) <= n;
      before = is_before ? middle + 1 : before;
      left = is_before ? left - half - 1 : half;
    }
    return n + static_cast<std::int32_t>(before);
  }

  // SplitMix64's output for this state (Steele et al., OOPSLA 2014).
  static ASYNCOPT_INLINE std::uint64_t random_bits(std::uint64_t state) {
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB;
    return state ^ (state >> 31);
  }

  template <class Access>
  static double loop(const Entries& entries, const Liked& liked, std::size_t first,
                     std::size_t last, const Model& m, const Settings& s) {
    constexpr std::size_t kBatch = 32;  // entries whose items are drawn and prefetched together
    std::int32_t drawn[kBatch];
    double losses = 0;
    for (; first < last; first += kBatch) {
      const std::size_t n = std::min(kBatch, last - first);
      for (std::size_t k = 0; k < n; ++k) {
        drawn[k] = draw(liked, entries.users[first + k], first + k, s.seed);
        if (drawn[k] == kNone) continue;
        prefetch_row(m.items + static_cast<std::size_t>(drawn[k]) * m.stride, m.stride);
      }
      for (std::size_t k = 0; k < n; ++k)
        if (drawn[k] != kNone)
          losses +=
              step<Access>(entries.users[first + k], entries.items[first + k], drawn[k], m, s);
    }
    return losses;
  }

  template <class Access>
  static ASYNCOPT_INLINE double step(std::int32_t user, std::int32_t better, std::int32_t worse,
                                     const Model& m, const Settings& s) {
    float* const p = m.users + static_cast<std::size_t>(user) * m.stride;
    float* const q = m.items + static_cast<std::size_t>(better) * m.stride;
    float* const r = m.items + static_cast<std::size_t>(worse) * m.stride;
    Lanes sums{}, a, b, c, rate;
    for (std::size_t l = 0; l < m.stride; l += kLanes) {
      racy_load(a, p + l);
      racy_load(b, q + l);
      racy_load(c, r + l);
      sums += a * (b - c);
    }
    const float margin = sum(sums);
    const float e = __builtin_expf(-__builtin_fabsf(margin));
    const float wrong = (margin < 0 ? 1 : e) / (1 + e);  // probability of the other order
    for (std::size_t l = 0; l < m.stride; l += kLanes) {
      racy_load(a, p + l);
      racy_load(b, q + l);
      racy_load(c, r + l);
      load(rate, s.user_rates + l);
      Access::move(p + l, a, rate, wrong * (b - c), s.regularization);
      load(rate, s.item_rates + l);
      Access::move(q + l, b, rate, wrong * a, s.regularization);
      Access::move(r + l, c, rate, -wrong * a, s.regularization);
    }
    return static_cast<double>(__builtin_log1pf(e) + (margin < 0 ? -margin : 0));
  }
};

}  // namespace asyncopt::ASYNCOPT_ISA::factors
