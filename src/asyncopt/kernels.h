// What a kernel is, and the table of all of them: one per rule and dtype, for the instruction set
// that was picked when the library was loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "asyncopt/ledger.h"
#include "asyncopt/lists.h"

namespace asyncopt {

inline constexpr std::size_t kMaxSlots = 3;               // state tensors of a rule
inline constexpr std::size_t kMaxScalars = 3;             // per-tensor scalars of a rule
inline constexpr std::size_t kMaxHyper = 8;               // hyperparameters of a rule
inline constexpr std::size_t kMaxCoef = 96;               // bytes of a rule's coefficients
inline constexpr std::size_t kMaxValues = 1 + kMaxSlots;  // of an element: it and its slots
inline constexpr std::size_t kMaxIdleCoef = kMaxValues * kMaxValues * sizeof(double);

// A range of elements to update: under a row-wise rule a whole row. Pointers are to its first
// element, and to its value among those of a row.
struct Span {
  void* param;
  const void* grad;
  void* slots[kMaxSlots];
  std::size_t n;
  std::uint32_t seed;  // of the stochastic rounding
};

struct Loops {
  void (*racy)(const void* coef, const Span&);
  void (*atomic)(const void* coef, const Span&, Tally&);  // retries until nothing is lost
  void (*audit)(const void* coef, const Span&, Tally&);   // drops and counts
  bool (*finite)(const void* values, std::size_t n);
  // Sums `count` gradients of n elements each.
  void (*sum)(void* sum, const void* const* grads, std::size_t count, std::size_t n);
  const Loops* settled;  // for a linear map in place of the rule; see idle.h
};

// What a rule says of steps without a gradient; see idle.h.
struct IdleSteps {
  std::size_t values;      // of an element: maps are values x values doubles
  std::size_t coef_bytes;  // of a map, as its loops take it
  bool (*owes)(const double* hyper);
  double (*settles_after)(const double* hyper);
  void (*compose)(const void* coef, double* map);
  void (*coefficients)(const double* map, void* coef);
};

// One rule on one dtype: facts that hold for every instruction set.
struct Kernel {
  const char* rule;
  const char* param_dtype;
  const char* state_dtype;
  std::size_t param_bytes;  // of one element
  std::size_t state_bytes;
  std::span<const char* const> hyper;
  std::span<const char* const> slots;
  std::span<const char* const> scalars;
  std::size_t row_slots;  // of the slots, the last ones: they hold one value per row
  std::size_t coef_bytes;
  void (*prepare)(const double* hyper, double* scalars, void* coef);
  IdleSteps idle;
  Loops loops;
};

// All kernels, rules outermost, dtypes innermost. Chosen once per process.
std::span<const Kernel> kernels();
const Kernel* find_kernel(std::string_view rule, std::string_view param_dtype,
                          std::string_view state_dtype);

// The instruction sets compiled in that this processor has, slowest first; the one in use is the
// last, or the one that the environment variable ASYNCOPT_ISA names.
std::span<const char* const> available_isas();
const char* picked_isa();

}  // namespace asyncopt
