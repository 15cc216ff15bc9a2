// Graph cuts: inputs and interface of the kernels.
//
// Every vertex has a share in each class, and its shares add up to 1. The objective is the sum over
// the edges of weight |x_u - x_v|_1 / 2, with some vertices fixed to one class: the relaxation of
// the multi-way cut by Calinescu, Karloff and Rabani (STOC 1998).
#pragma once

#include <cstddef>
#include <cstdint>

#include "asyncopt/kernels/lanes.h"

namespace asyncopt::cuts {

inline constexpr std::size_t kMostClasses = 1024;  // a step holds two rows on the stack

// Lanes of a row with this many classes.
inline constexpr std::size_t stride_of(std::size_t classes) {
  return (classes + kLanes - 1) / kLanes * kLanes;
}

// Edge k joins tails[k] and heads[k], in the order in which they are visited.
struct Edges {
  const std::int32_t* tails;
  const std::int32_t* heads;
  const float* weights;
};

struct Model {
  float* shares;              // rows of stride_of(classes) floats, zeros after the classes
  const std::uint8_t* fixed;  // per vertex: nonzero if its row is never written
  std::size_t classes;
};

// Steps on the edges [first, last), at the given learning rate; returns the sum of their
// weight |x_u - x_v|_1 / 2, each before its own step.
using Loop = double (*)(const Edges&, std::size_t first, std::size_t last, const Model&,
                        float rate);

// The loop for the selected instruction set (asyncopt/kernels/kernels.h).
Loop loop();

}  // namespace asyncopt::cuts
