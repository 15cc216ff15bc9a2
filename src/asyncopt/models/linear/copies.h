// Columns of which each worker has a copy of its own, and how copies become one again.
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <vector>

#include "asyncopt/models/linear/kernels.h"

namespace asyncopt::linear {

// The copied columns, the most frequent first, in levels that are merged together. In a power law
// a column's frequency falls as its number rises: so each level goes to four times that of the one
// before and is merged a fourth as often, and between two merges of a column lie about as many
// steps on it, whichever it is.
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
  const float* curvatures;  // each column's part in that of the mean loss
  Model shared;
  float workers;
  bool average;  // the copies' changes, instead of adding them up
};

// One worker's copies.
class Copies {
 public:
  // Makes those of the levels' columns, in `mine`.
  Copies(Levels& levels, const Merging& merging, const Model& mine);

  // After some more examples, the last of which was the `seen`-th since the beginning and took the
  // learning rate `eta`: merges the levels that are due.
  void count(std::size_t examples, float eta, float seen);
  void merge();  // all

  // Of each column, if the step moves copies by strides: how far it moves the copy for each 1 that
  // merging it moves the weight. So a worker steps as if the others took steps like its own, which
  // they do, and what is added up is not too much (CoCoA+, Ma et al., ICML 2015). Else null.
  const float* strides() const { return strides_.empty() ? nullptr : strides_.data(); }

 private:
  // One number of each column.
  struct Numbers {
    float *shared, *mine;
    std::vector<float> before;  // as it was when merged last

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
  Numbers weights_, squares_, sums_;   // `before` is empty where the step has no such numbers
  std::vector<std::size_t> examples_;  // of each level since it was merged
  std::vector<float> strides_;
  float eta_, seen_ = 0;
};

}  // namespace asyncopt::linear
