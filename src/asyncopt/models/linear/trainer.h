// Training of a linear model: its memory, its workers and their passes over the examples.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <span>

#include "asyncopt/models/linear/conflicts.h"
#include "asyncopt/models/linear/copies.h"
#include "asyncopt/models/linear/kernels.h"
#include "asyncopt/models/linear/memory.h"
#include "asyncopt/models/linear/round.h"
#include "asyncopt/models/linear/syncs.h"

namespace asyncopt::linear {

// One pass over some examples, in blocks of consecutive rows.
struct Pass {
  Rows rows;
  std::size_t count;                    // number of rows
  std::size_t block;                    // rows per block; the last may have fewer
  std::span<const std::int64_t> order;  // order of the blocks
  // Under the sync `ordered`, the first row of each of a block's kPieces pieces, and the end of the
  // last; empty: each block is one piece.
  std::span<const std::int64_t> pieces;
  std::uint64_t t;  // examples before this pass
  Settings settings;
  // Each column's share of the curvature of the mean loss, for merging copies.
  const float* curvatures;

  std::size_t pieces_each() const { return pieces.empty() ? 1 : kPieces; }
};

class Trainer {
 public:
  // At most `examples` columns are copied (in whole pages), so that copying costs little compared
  // with a pass over so many examples. All columns are copied if the step keeps numbers of
  // examples, and `examples` is ignored if copies are averaged. Throws std::system_error if the
  // memory cannot be had.
  Trainer(const Kernel& kernel, const Sync& sync, std::size_t columns, std::size_t workers,
          std::size_t examples = kAll);

  // Memory that such a trainer takes, in bytes.
  static std::size_t bytes_needed(const Kernel& kernel, const Sync& sync, std::size_t columns,
                                  std::size_t workers, std::size_t examples = kAll);

  std::span<float> weights() { return {floats_of(weights_), columns_}; }
  std::span<float> squares() { return {floats_of(squares_), kernel_.adaptive ? columns_ : 0}; }
  std::span<float> sums() { return {floats_of(sums_), kernel_.sums ? columns_ : 0}; }
  std::size_t notes() const { return kernel_.notes; }  // numbers kept per example

  // Runs one pass. A free worker takes the next block, or piece, in order. Returns the sum of the
  // examples' losses. The calling thread, itself a worker, polls `go_on` about 20 times per second;
  // once it returns false, every worker stops after its block, and the result is empty.
  std::optional<double> run(const Pass& pass, const std::function<bool()>& go_on);

  // Gauges all examples, for steps that keep notes, on as many threads as there are workers. The
  // result is bit-identical for any number of threads. Sets `to.gradient` to the sum of the
  // gradients and returns the sum of the losses.
  double gauge(const Rows& rows, std::size_t count, const Settings& settings, const Gauging& to);

 private:
  class Worker;

  // Bytes of one number per column, and of those that a worker copies; 0 if the step keeps none.
  std::size_t bytes(bool kept) const { return kept ? columns_ * sizeof(float) : 0; }
  std::size_t own_bytes(bool kept) const { return kept ? levels_.columns() * sizeof(float) : 0; }

  static float* floats_of(const Memory& memory) {
    return reinterpret_cast<float*>(memory.shared());
  }

  const Kernel& kernel_;
  const Sync& sync_;
  std::size_t columns_, workers_;
  Levels levels_;  // the columns that workers copy
  Memory weights_, squares_, sums_;
  std::mutex mutex_;  // held for each example under the sync `mutex`
  Round round_;       // turns of the sync `round-robin`
};

}  // namespace asyncopt::linear
