// What a linear kernel works on, and the table of all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "asyncopt/lanes.h"
#include "asyncopt/linear/round.h"

namespace asyncopt::linear {

class CustomLoss;

// An example at the anchor of a solver that ends at the optimum (gauge.h): its prediction, and the
// number that the step keeps of it.
struct Anchor {
  double prediction, number;
};

// Examples in compressed rows: entries begin[i] to begin[i + 1] are those of row i. No column
// comes twice in a row. Kernels read whole lanes, up to kLanes entries past the end of a row: as
// many of column 0 follow the last one.
struct Rows {
  const std::int64_t* begin;
  const std::int32_t* columns;
  const float* values;
  const float* targets;     // -1 or 1 in classification, any number in regression
  const float* weights;     // of each example; null: all 1
  float* notes;             // what the step keeps of each example, 0 at first
  const Anchor* anchors{};  // of each example, of steps that keep notes
};

// What a worker reads and writes: a number of each kind for each column, where the step has it.
struct Model {
  float* weights;
  float* squares;
  float* sums;
  Round::Seat* seat;  // for which the worker waits before it writes; null: for nothing
};

struct Settings {
  float eta0, decay;       // of the learning rate: `rate`; the dual's is only what strides are
                           // chosen by
  float l1, l2;            // the penalty on a weight w is l1 |w| + l2 w^2 / 2
  float epsilon;           // of the Huber loss
  const float* spacing;    // of each column: examples for each one that has it; 0: no penalty
  float examples{};        // of which the mean loss is minimized
  CustomLoss* custom{};    // the loss of that name
  std::uint64_t since{};   // the first example that the mean of weights is of
  const float* strides{};  // of each column in a worker's copy: copies.h; null: all 1
  float power{1};          // of the learning rate, too
  const float* base{};     // of steps that keep notes, with an l1 penalty: the weights' anchor

  // The learning rate of example t: eta0 / (1 + decay t) ^ power.
  ASYNCOPT_INLINE float rate(std::uint64_t t) const {
    const float fall = 1 + decay * static_cast<float>(t);
    return eta0 / (power == 1 ? fall : __builtin_powf(fall, power));
  }
};

// Steps on the examples [first, last), of which the first is the t-th since the beginning. Returns
// the sum of their losses, each before its own step and without the penalty.
using Loop = double (*)(const Rows&, std::size_t first, std::size_t last, std::uint64_t t,
                        const Model&, const Settings&);

// Weights in float64 (`gauge.h`), the examples' predictions and derivatives there, and what is
// added to the sum of the gradients.
struct Gauging {
  const double* weights;
  Anchor* anchors;
  double* derivatives;
  double* gradient;
};
// Of the examples [first, last); returns the sum of their losses.
using Gauge = double (*)(const Rows&, std::size_t first, std::size_t last, const Settings&,
                         const Gauging&);

// [1]: with a penalty.
struct Loops {
  Loop alone[2];  // nobody else writes at the same time
  Loop racy[2];
  Loop atomic[2];
  Gauge gauge{};  // of steps that keep notes
};

// One loss with one kind of step.
struct Kernel {
  const char* loss;
  const char* step;
  bool adaptive, sums, averages, leads, strides;  // as steps.h says of the step
  std::size_t notes;                              // likewise
  float curvature;                                // of the loss, at most
  Loops loops;
};

// All that there are, losses outermost, for the instruction set that was picked
// (asyncopt/kernels.h).
std::span<const Kernel> kernels();

}  // namespace asyncopt::linear
