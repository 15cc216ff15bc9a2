// Tables that the kernels of a device read and write, besides the tensors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "asyncopt/kernels/kernels.h"
#include "asyncopt/rules/list.h"

namespace asyncopt::device {

inline constexpr unsigned kThreads = 256;  // of a block
// One thread per tensor. Few per block, because double precision is slow on most devices.
inline constexpr unsigned kPrepareThreads = 32;
inline constexpr std::size_t kBlockElements = 4096;  // elements that a block takes at a time
inline constexpr std::size_t kVector = 16;           // bytes that one load or store moves
inline constexpr std::size_t kMaxGroups = 32;        // groups that one prepare launch takes

// A tensor with a gradient. Written by the host.
struct Tensor {
  void* param;
  void* grad;
  void* slots[kMaxSlots];
  double* scalars;
  std::uint64_t n;
  std::uint32_t group;    // index of the optimizer's group
  std::uint32_t ordinal;  // index among all tensors with a gradient, from 1; seeds random numbers
  std::uint32_t aligned;  // 1: all its arrays can be read by vectors
  std::uint32_t unused;   // explicit padding: tensors are compared byte by byte
};

// Elements [number * kBlockElements, ...) of a tensor. Written by the host.
struct TensorChunk {
  std::uint32_t tensor, number;
};

// Per-tensor output of `prepare`, consumed by `update`.
struct TensorStep {
  alignas(16) std::byte coef[kMaxCoef];
  double unscale;  // factor of the gradients; if not 1, the gradients are written back
  std::uint32_t seed;
  std::uint32_t skip;  // 1: no update
};

// State carried between steps, one per optimizer, so the steps of an optimizer must not overlap on
// the device: to step on several streams at once, use one optimizer per stream.
struct Clock {
  std::uint32_t pushes;  // seeds rounding, so that each replay of a graph has other random numbers
  std::uint32_t bad;     // 1: this step has an infinite or NaN gradient
  std::uint64_t skipped;
};

// A learning rate in device memory.
struct Rate {
  const void* at = nullptr;  // nullptr: use the group's rate from the host
  std::size_t bytes = 0;     // 4: float32, 8: float64
};

// The tensors of one kernel, with their records and chunks.
struct Part {
  const Tensor* tensors;
  TensorStep* records;
  const TensorChunk* chunks;
  Clock* clock;
  std::uint32_t tensor_count, chunk_count;
};

// The arguments of the three launches of a step, in their order.

// Sets clock->bad if a gradient is infinite or NaN.
struct CheckArgs {
  Part part;
};

// Counts the step and computes the coefficients of tensors [begin, end), whose groups are from
// `first_group` on. Hyperparameters are arguments of the launch: a graph replays captured values.
struct PrepareArgs {
  Part part;
  std::uint32_t begin, end;
  std::uint32_t first_group;
  std::uint32_t seed;
  const float* grad_scale;  // divisor of the gradients; nullptr: 1
  const float* found_inf;   // no step if it is not 0; nullptr: 0
  Rate rates[kMaxGroups];
  double hyper[kMaxGroups][kMaxHyper];
};

struct UpdateArgs {
  Part part;
  std::uint32_t is_last;  // of the step's launches
};

// Fingerprint of the layout; differs between builds whose tables are incompatible.
inline constexpr std::size_t kLayout =
    sizeof(Tensor) +
    1000 * (sizeof(TensorStep) + 1000 * (sizeof(PrepareArgs) + 10000 * Rules::size));

}  // namespace asyncopt::device
