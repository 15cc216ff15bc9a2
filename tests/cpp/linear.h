// Made-up examples and a float64 reference for the linear models.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string_view>
#include <vector>

#include "asyncopt/models/linear/custom.h"
#include "asyncopt/models/linear/trainer.h"
#include "check.h"

namespace asyncopt::test {

inline const linear::Kernel& linear_kernel(std::string_view loss, std::string_view step) {
  for (const linear::Kernel& k : linear::kernels())
    if (loss == k.loss && step == k.step) return k;
  fail(__FILE__, __LINE__, "no such kernel");
}

inline const linear::Sync& linear_sync(std::string_view name) {
  for (const linear::Sync& s : linear::kSyncs)
    if (name == s.name) return s;
  fail(__FILE__, __LINE__, "no such sync");
}

// A custom loss, log cosh (error).
inline linear::CustomLoss log_cosh([](double prediction, double target, double* found) {
  const double error = prediction - target, size = std::fabs(error);
  found[0] = size + std::log1p(std::exp(-2 * size)) - std::log(2);
  found[1] = std::tanh(error);
});

// Rows of given lengths with random columns, none twice in a row, and random values.
struct Examples {
  std::size_t columns;
  std::vector<std::int64_t> begin{0};
  std::vector<std::int32_t> column;
  std::vector<float> value, target, spacing, curvature;

  Examples(std::size_t columns_, const std::vector<std::size_t>& lengths, std::uint32_t seed)
      : columns(columns_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> count(columns, 0);
    for (const std::size_t n : lengths) {
      std::vector<std::int32_t> all(columns);
      for (std::size_t u = 0; u < columns; ++u) all[u] = static_cast<std::int32_t>(u);
      std::shuffle(all.begin(), all.end(), random);
      for (std::size_t k = 0; k < n; ++k) {
        column.push_back(all[k]);
        value.push_back(normal(random));
        count[static_cast<std::size_t>(all[k])] += 1;
      }
      begin.push_back(static_cast<std::int64_t>(column.size()));
      target.push_back(random() % 2 == 0 ? -1.0f : 1.0f);
    }
    for (const float c : count)
      spacing.push_back(static_cast<float>(lengths.size()) / std::fmax(c, 1.0f));
    curvature.assign(columns, 0);
    column.resize(column.size() + kLanes);
    value.resize(column.size());
  }

  std::size_t rows() const { return target.size(); }

  // The same rows in another order.
  Examples arranged(const std::vector<std::int64_t>& order) const {
    Examples copy(*this);
    copy.column.clear();
    copy.value.clear();
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto row = static_cast<std::size_t>(order[i]);
      const auto first = begin[row], last = begin[row + 1];
      copy.column.insert(copy.column.end(), column.begin() + first, column.begin() + last);
      copy.value.insert(copy.value.end(), value.begin() + first, value.begin() + last);
      copy.target[i] = target[row];
      copy.begin[i + 1] = static_cast<std::int64_t>(copy.column.size());
    }
    copy.column.resize(column.size());
    copy.value.resize(value.size());
    return copy;
  }

  linear::Pass pass(std::span<const std::int64_t> order, std::size_t block,
                    linear::Settings settings) const {
    settings.spacing = spacing.data();
    settings.examples = static_cast<float>(rows());
    settings.custom = &log_cosh;
    return {.rows = {begin.data(), column.data(), value.data(), target.data(), nullptr, nullptr},
            .count = rows(),
            .block = block,
            .order = order,
            .pieces = {},
            .t = 0,
            .settings = settings,
            .curvatures = curvature.data()};
  }
};

// The examples' data for steps that keep notes, all at an anchor of 0.
struct Kept {
  std::vector<float> notes;
  std::vector<linear::Anchor> anchors;

  Kept(const Examples& e, const linear::Trainer& trainer)
      : notes(e.rows() * trainer.notes(), 0), anchors(e.rows(), {0, 0}) {}
  void give(linear::Pass& pass) {
    pass.rows.notes = notes.data();
    pass.rows.anchors = anchors.data();
  }
};

// The loss at a prediction in float64, from its textbook formula.
inline double textbook_loss(std::string_view loss, double prediction, double target,
                            double epsilon) {
  const double margin = prediction * target, error = std::fabs(prediction - target);
  if (loss == "hinge") return std::fmax(0, 1 - margin);
  if (loss == "squared_hinge") return std::pow(std::fmax(0, 1 - margin), 2);
  if (loss == "modified_huber")
    return margin < -1 ? -4 * margin : std::pow(std::fmax(0, 1 - margin), 2);
  if (loss == "perceptron") return std::fmax(0, -margin);
  if (loss == "log_loss") return std::log(1 + std::exp(-margin));
  if (loss == "squared_error") return error * error / 2;
  if (loss == "custom") return std::log(std::cosh(error));
  CHECK(loss == "huber");
  return error <= epsilon ? error * error / 2 : epsilon * (error - epsilon / 2);
}

inline double textbook_derivative(std::string_view loss, double prediction, double target,
                                  double epsilon) {
  if (loss == "perceptron") return prediction * target <= 0 ? -target : 0;
  const double h = 1e-6;
  return (textbook_loss(loss, prediction + h, target, epsilon) -
          textbook_loss(loss, prediction - h, target, epsilon)) /
         (2 * h);
}

}  // namespace asyncopt::test
