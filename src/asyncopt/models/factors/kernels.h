// Matrix factorization: inputs of the kernels, and the table of all kernels.
//
// A rating of item i by user u is predicted as mean + <p_u, q_i> + b_u + c_i. A bias is stored as a
// factor whose counterpart is 1, so that one loop computes everything: a user's row is p_u, 1, b_u,
// an item's row q_i, c_i, 1, each padded with zeros to whole cache lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "asyncopt/kernels/lanes.h"

namespace asyncopt::factors {

// Lanes of a row with this many factors.
inline constexpr std::size_t stride_of(std::size_t factors) {
  return (factors + 2 + kLanes - 1) / kLanes * kLanes;
}

// Entry k pairs users[k] and items[k]. Entries are stored in the order of the visits.
struct Entries {
  const std::int32_t* users;
  const std::int32_t* items;
  const float* values;  // ratings; not read by rankings
};

// Items that each user likes, in rising order: items[begin[u]] to items[begin[u + 1]] for user u.
struct Liked {
  const std::int64_t* begin;
  const std::int32_t* items;
  std::size_t item_count;
};

struct Model {
  float* users;  // rows of `stride` floats
  float* items;
  std::size_t stride;
};

struct Settings {
  const float* user_rates;  // learning rate of each lane of a row; 0: the lane is constant
  const float* item_rates;
  float regularization;
  float mean;
  std::uint64_t seed;  // for the items that a ranking draws
};

// Steps on the entries [first, last); returns the sum of their losses, each before its own step and
// without the regularization.
using Loop = double (*)(const Entries&, const Liked&, std::size_t first, std::size_t last,
                        const Model&, const Settings&);

struct Kernel {
  const char* loss;
  bool ranks;  // compares with drawn items that the user has not rated
  Loop racy, atomic;
};

// The kernels for the selected instruction set (asyncopt/kernels/kernels.h).
std::span<const Kernel> kernels();

}  // namespace asyncopt::factors
