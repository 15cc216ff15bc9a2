// Inputs of the linear kernels, and the table of all kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "asyncopt/kernels/lanes.h"
#include "asyncopt/models/linear/round.h"

namespace asyncopt::linear {

class CustomLoss;

// An example at the anchor of a solver that converges to the optimum (gauge.h): its prediction, and
// the number that the step keeps for it.
struct Anchor {
  double prediction, number;
};

// Examples in compressed rows: entries begin[i] to begin[i + 1] are those of row i. A row names
// each column at most once. Kernels read whole lanes, up to kLanes entries past the end of a row,
// so the arrays end with that many entries of column 0.
struct Rows {
  const std::int64_t* begin;
  const std::int32_t* columns;
  const float* values;
  const float* targets;     // -1 or 1 in classification, any number in regression
  const float* weights;     // weight of each example; null: all 1
  float* notes;             // numbers that the step keeps per example, initially 0
  const Anchor* anchors{};  // per example, for steps that keep notes
};

// The numbers that a worker reads and writes: one of each kind per column, if the step has it.
struct Model {
  float* weights;
  float* squares;
  float* sums;
  Round::Seat* seat;  // its turn is awaited before each write; null: no turns
};

struct Settings {
  float eta0, decay;       // learning rate, see `rate`; the dual step uses eta0 only to choose
                           // strides
  float l1, l2;            // the penalty on a weight w is l1 |w| + l2 w^2 / 2
  float epsilon;           // of the Huber loss
  const float* spacing;    // per column: examples per example that has it; 0: no penalty
  float examples{};        // number of examples in the mean loss
  CustomLoss* custom{};    // the loss "custom"
  std::uint64_t since{};   // first example in the mean of weights
  const float* strides{};  // per column of a worker's copy (copies.h); null: all 1
  float power{1};          // exponent of the learning rate
  const float* base{};     // anchor of the weights, for steps that keep notes with an l1 penalty

  // The learning rate of example t: eta0 / (1 + decay t) ^ power.
  ASYNCOPT_INLINE float rate(std::uint64_t t) const {
    const float fall = 1 + decay * static_cast<float>(t);
    return eta0 / (power == 1 ? fall : __builtin_powf(fall, power));
  }
};

// Steps on the examples [first, last); `t` counts the examples before them since the start. Returns
// the sum of their losses, each before its own step and without the penalty.
using Loop = double (*)(const Rows&, std::size_t first, std::size_t last, std::uint64_t t,
                        const Model&, const Settings&);

// Inputs and outputs of a gauge (`gauge.h`): weights in float64, the examples' predictions and
// derivatives there, and the gradient, to which their sum is added.
struct Gauging {
  const double* weights;
  Anchor* anchors;
  double* derivatives;
  double* gradient;
};
// Gauges the examples [first, last); returns the sum of their losses.
using Gauge = double (*)(const Rows&, std::size_t first, std::size_t last, const Settings&,
                         const Gauging&);

// [1]: with a penalty.
struct Loops {
  Loop alone[2];  // for a single writer at a time
  Loop racy[2];
  Loop atomic[2];
  Gauge gauge{};  // for steps that keep notes
};

// One loss with one kind of step.
struct Kernel {
  const char* loss;
  const char* step;
  bool adaptive, sums, averages, leads, strides;  // properties of the step: steps.h
  std::size_t notes;                              // likewise
  float curvature;                                // upper bound for the loss: losses.h
  Loops loops;
};

// All kernels, losses outermost, for the selected instruction set (asyncopt/kernels/kernels.h).
std::span<const Kernel> kernels();

}  // namespace asyncopt::linear
