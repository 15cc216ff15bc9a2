// Kernels: one per rule and dtype, for the selected instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "asyncopt/base/counters.h"
#include "asyncopt/rules/idle.h"

namespace asyncopt {

// A range of elements to update; under a row-wise rule, a whole row. Pointers are to the first
// element, or, for slots with one value per row, to the row's value.
struct Span {
  void* param;
  const void* grad;
  void* slots[kMaxSlots];
  std::size_t n;
  std::uint32_t seed;  // for stochastic rounding
};

struct Loops {
  void (*racy)(const void* coef, const Span&);
  void (*atomic)(const void* coef, const Span&, Tally&);  // retries until nothing is lost
  void (*audit)(const void* coef, const Span&, Tally&);   // drops and counts
  bool (*finite)(const void* values, std::size_t n);
  // Sums `count` gradients of n elements each.
  void (*sum)(void* sum, const void* const* grads, std::size_t count, std::size_t n);
  const Loops* linear;  // for a linear map in place of the rule; see idle.h
};

// One rule on one dtype: its properties, equal for every instruction set, and its loops.
struct Kernel {
  const char* rule;
  const char* param_dtype;
  const char* state_dtype;
  std::size_t param_bytes;  // of one element
  std::size_t state_bytes;
  std::span<const char* const> hyper;
  std::span<const char* const> slots;
  std::span<const char* const> scalars;
  std::size_t row_slots;  // number of last slots that hold one value per row
  std::size_t coef_bytes;
  void (*prepare)(const double* hyper, double* scalars, void* coef);
  IdleSteps idle;
  Loops loops;
};

// All kernels, rules outermost, dtypes innermost. Chosen once per process.
std::span<const Kernel> kernels();
const Kernel* find_kernel(std::string_view rule, std::string_view param_dtype,
                          std::string_view state_dtype);

}  // namespace asyncopt
