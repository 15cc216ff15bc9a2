// Matrix factorization: what a kernel works on, and the table of all of them.
//
// A rating of item i by user u is predicted as mean + <p_u, q_i> + b_u + c_i. The biases are
// factors whose other side is one, so that one loop does it all: a user's row is p_u, 1, b_u, an
// item's q_i, c_i, 1, each followed by zeros up to whole cache lines.
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

// Entry k is that of users[k] and items[k], in the order in which they are visited.
struct Entries {
  const std::int32_t* users;
  const std::int32_t* items;
  const float* values;  // of no meaning for a ranking
};

// What each user likes, in rising order: row u is items[begin[u]] to items[begin[u + 1]].
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
  const float* user_rates;  // the learning rate of each lane of a row; 0: it stays as it is
  const float* item_rates;
  float regularization;
  float mean;
  std::uint64_t seed;  // of the items that a ranking compares with
};

// Steps on the entries [first, last); returns the sum of their losses, each before its own step and
// without the regularization.
using Loop = double (*)(const Entries&, const Liked&, std::size_t first, std::size_t last,
                        const Model&, const Settings&);

struct Kernel {
  const char* loss;
  bool ranks;  // compares with items that a user has not rated
  Loop racy, atomic;
};

// For the instruction set that was picked (asyncopt/kernels/kernels.h).
std::span<const Kernel> kernels();

}  // namespace asyncopt::factors
