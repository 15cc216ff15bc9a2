// A linear model in training: its memory, its workers and their passes over the examples.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <span>

#include "asyncopt/linear/conflicts.h"
#include "asyncopt/linear/copies.h"
#include "asyncopt/linear/kernels.h"
#include "asyncopt/linear/memory.h"
#include "asyncopt/linear/round.h"
#include "asyncopt/linear/syncs.h"

namespace asyncopt::linear {

// One pass over some examples, in blocks of consecutive rows.
struct Pass {
  Rows rows;
  std::size_t count;                    // of the rows
  std::size_t block;                    // rows in each block, but for the last
  std::span<const std::int64_t> order;  // of the blocks
  // Under the sync `ordered`, where the kPieces of each block begin, and the last one ends; empty:
  // each block is one piece.
  std::span<const std::int64_t> pieces;
  std::uint64_t t;  // examples since the beginning
  Settings settings;
  // Each column's part in the curvature of the mean loss, for merging copies.
  const float* curvatures;

  std::size_t pieces_each() const { return pieces.empty() ? 1 : kPieces; }
};

class Trainer {
 public:
  // No more columns are copied than a pass has `examples` (whole pages), so that it costs little
  // beside them; but all of them where copies are averaged, or the step keeps numbers of examples.
  // Throws std::system_error where there is no memory.
  Trainer(const Kernel& kernel, const Sync& sync, std::size_t columns, std::size_t workers,
          std::size_t examples = kAll);

  // Bytes that such a trainer takes.
  static std::size_t bytes_needed(const Kernel& kernel, const Sync& sync, std::size_t columns,
                                  std::size_t workers, std::size_t examples = kAll);

  std::span<float> weights() { return {floats_of(weights_), columns_}; }
  std::span<float> squares() { return {floats_of(squares_), kernel_.adaptive ? columns_ : 0}; }
  std::span<float> sums() { return {floats_of(sums_), kernel_.sums ? columns_ : 0}; }
  std::size_t notes() const { return kernel_.notes; }  // numbers kept of each example

  // Workers take the blocks (their pieces) in order, each the next one when it is free. Returns the
  // sum of the examples' losses. `go_on` is asked by the calling thread, itself a worker, some 20
  // times a second; once it says no, every worker ends after its block, and the result is empty.
  std::optional<double> run(const Pass& pass, const std::function<bool()>& go_on);

  // Gauges all examples of a step that keeps notes, on as many threads as there are workers, with
  // the same bits however many. `to.gradient` becomes the sum of the gradients. Returns the sum of
  // the losses.
  double gauge(const Rows& rows, std::size_t count, const Settings& settings, const Gauging& to);

 private:
  class Worker;

  // Of one number for each column, where the step keeps it; of those that a worker copies.
  std::size_t bytes(bool kept) const { return kept ? columns_ * sizeof(float) : 0; }
  std::size_t own_bytes(bool kept) const { return kept ? levels_.columns() * sizeof(float) : 0; }

  static float* floats_of(const Memory& memory) {
    return reinterpret_cast<float*>(memory.shared());
  }

  const Kernel& kernel_;
  const Sync& sync_;
  std::size_t columns_, workers_;
  Levels levels_;  // of the columns that workers copy
  Memory weights_, squares_, sums_;
  std::mutex mutex_;  // around each example, under the sync of that name
  Round round_;       // of the sync `round-robin`
};

}  // namespace asyncopt::linear
