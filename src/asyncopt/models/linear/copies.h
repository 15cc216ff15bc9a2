// Private copies of frequent columns, one per worker, and their merging.
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <vector>

#include "asyncopt/models/linear/kernels.h"

namespace asyncopt::linear {

// The copied columns, most frequent first, in levels that are merged together. Under a power law a
// column's frequency falls with its number, so each level ends at four times the column of the
// level before and is merged a fourth as often. Every column then gets about the same number of
// steps between two merges.
class Levels {
 public:
  // The first columns are merged after `merge_every` examples of a worker.
  Levels(std::size_t columns, std::size_t merge_every);

  struct Level {
    std::size_t begin, end;   // columns
    std::size_t merge_every;  // examples
    std::mutex mutex;
  };
  std::deque<Level>& all() { return all_; }
  std::size_t columns() const { return all_.empty() ? 0 : all_.back().end; }

 private:
  std::deque<Level> all_;
};

struct Merging {
  const Kernel& kernel;
  const Settings& settings;
  const float* curvatures;  // each column's share of the curvature of the mean loss
  Model shared;
  float workers;
  bool average;  // average the copies' changes instead of adding them
};

// One worker's copies.
class Copies {
 public:
  // Makes copies of the levels' columns in `mine`.
  Copies(Levels& levels, const Merging& merging, const Model& mine);

  // Counts further examples and merges the levels that are due. `seen`: examples since the start.
  // `eta`: learning rate of the last example.
  void count(std::size_t examples, float eta, float seen);
  void merge();  // all

  // Strides of the columns, for steps that use them; else null. A stride is how far a step moves
  // the copy for each 1 that the merge adds to the weight. A worker thus steps as if the others
  // took steps like its own, and the sum of all changes does not overshoot (CoCoA+, Ma et al., ICML
  // 2015).
  const float* strides() const { return strides_.empty() ? nullptr : strides_.data(); }

 private:
  // One number per column.
  struct Numbers {
    float *shared, *mine;
    std::vector<float> before;  // value at the last merge

    float change(std::size_t u) const { return mine[u] - before[u]; }
  };

  void merge(std::size_t level);
  void merge_changes(const Levels::Level& level, float examples);
  void merge_leaders(const Levels::Level& level, float examples);
  void copy(const Levels::Level& level);
  float rate(std::size_t u) const;
  float share(std::size_t u, float rate, float examples) const;
  float sound_share(std::size_t u, float rate, float examples) const;
  float part() const { return merging_.average ? 1 / merging_.workers : 1; }

  Levels& levels_;
  const Merging merging_;
  Numbers weights_, squares_, sums_;   // `before` is empty if the step has no such numbers
  std::vector<std::size_t> examples_;  // of each level since its last merge
  std::vector<float> strides_;
  float eta_, seen_ = 0;
};

}  // namespace asyncopt::linear
