// Linear models of one worker: losses, steps and penalties against float64 references.
#include "linear.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <numeric>

#include "asyncopt/models/linear/losses.h"
#include "asyncopt/models/linear/steps.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr float kEpsilon = 0.7f;

template <class Loss>
void check_loss() {
  current_case = Loss::name;
  linear::Settings settings{};
  settings.epsilon = kEpsilon;
  settings.custom = &log_cosh;
  for (const float target : {-1.0f, 1.0f})
    for (float prediction = -4.03f; prediction < 4; prediction += 0.1f) {
      const linear::LossAt<float> at = Loss::at(prediction, target, settings);
      CHECK_LE(std::fabs(at.value - textbook_loss(Loss::name, prediction, target, kEpsilon)), 1e-5);
      const double slope = textbook_derivative(Loss::name, prediction, target, kEpsilon);
      CHECK_LE(std::fabs(at.derivative - slope), 1e-5);
      const double next = Loss::at(prediction + 0.01f, target, settings).derivative;
      if (Loss::curvature != 1) CHECK_LE(next - at.derivative, 0.01001 * Loss::curvature);
    }
  for (const float far : {-1e4f, 1e4f}) {
    CHECK(std::isfinite(Loss::at(far, 1.0f, settings).value));
    CHECK(std::isfinite(Loss::at(far, 1.0f, settings).derivative));
  }
}

template <class... Ls>
void check_losses(List<Ls...>) {
  (check_loss<Ls>(), ...);
}

// One pass in float64, a column at a time.
struct Reference {
  std::vector<double> weights, squares, sums, mean;
  double losses = 0;

  Reference(const Examples& e, const linear::Kernel& kernel, const linear::Settings& s)
      : weights(e.columns), squares(e.columns), sums(e.columns), mean(e.columns) {
    for (std::size_t i = 0; i < e.rows(); ++i) {
      const auto begin = static_cast<std::size_t>(e.begin[i]);
      const auto end = static_cast<std::size_t>(e.begin[i + 1]);
      const auto at = [&](std::size_t k) { return static_cast<std::size_t>(e.column[k]); };
      double prediction = 0;
      for (std::size_t k = begin; k < end; ++k) prediction += weights[at(k)] * e.value[k];
      const double target = e.target[i];
      losses += textbook_loss(kernel.loss, prediction, target, s.epsilon);
      const double slope = textbook_derivative(kernel.loss, prediction, target, s.epsilon);
      double l2 = s.l2;
      if (slope == 0 && s.l1 == 0 && !kernel.leads)
        l2 *= linear::pays_for_flat_ones(i) ? linear::kFlatOnes : 0;
      for (std::size_t k = begin; k < end; ++k) {
        const std::size_t u = at(k);
        const double gradient = slope * e.value[k], gap = e.spacing[u];
        const double root = std::sqrt(squares[u]);
        squares[u] += gradient * gradient;
        if (kernel.leads) {
          const double steeper = (std::sqrt(squares[u]) - root) / s.eta0;
          sums[u] += gradient - steeper * weights[u];
          const double seen = static_cast<double>(i) + 1;
          const double beyond = std::fmax(0, std::fabs(sums[u]) - seen * s.l1);
          const double curvature = (1 + std::sqrt(squares[u])) / s.eta0 + seen * s.l2;
          weights[u] = std::copysign(beyond / curvature, -sums[u]);
          continue;
        }
        double eta = s.eta0 / std::pow(1 + s.decay * static_cast<double>(i), s.power);
        if (kernel.adaptive) eta /= std::sqrt(squares[u]) + 1e-10;
        const double w = weights[u] - eta * gradient;
        const double shrunk = std::fmax(0, std::fabs(w) - eta * s.l1 * gap);
        weights[u] = std::copysign(shrunk / (1 + eta * l2 * gap), w);
      }
      if (i < s.since) continue;
      const double counted = static_cast<double>(i - s.since) + 1;
      for (std::size_t u = 0; u < e.columns; ++u) mean[u] += (weights[u] - mean[u]) / counted;
    }
  }
};

constexpr auto kGoOn = [] { return true; };

// Row lengths on both sides of the lanes, and rows without any entry.
const std::vector<std::size_t> kLengths = [] {
  std::vector<std::size_t> lengths;
  for (int repeat = 0; repeat < 3; ++repeat)
    for (const std::size_t n : {5, 0, 1, 15, 16, 17, 31, 32, 33, 49}) lengths.push_back(n);
  return lengths;
}();

void check_steps() {
  const Examples examples(61, kLengths, 3);
  for (const linear::Kernel& kernel : linear::kernels()) {
    if (kernel.notes > 0) continue;  // test_linear_exact.cc
    for (const linear::Sync& sync : linear::kSyncs)
      for (const auto& [l1, l2] : {std::pair{0.0f, 0.0f}, {0.0f, 0.01f}, {0.004f, 0.01f}})
        for (const auto& [decay, power] : {std::pair{0.0f, 1.0f}, {0.1f, 1.0f}, {1.0f, 0.3f}}) {
          if (kernel.leads && decay > 0) continue;  // ignores it
          current_case = std::string(kernel.loss) + " " + kernel.step + " " + sync.name;
          linear::Settings settings{0.03f, decay, l1, l2, kEpsilon, nullptr};
          settings.since = kernel.averages ? 11 : 0;
          settings.power = power;
          const Reference expected(examples, kernel, settings);
          linear::Trainer trainer(kernel, sync, examples.columns, 1);
          std::vector<std::int64_t> order(examples.rows() / 7 + 1);
          std::iota(order.begin(), order.end(), 0);
          const auto losses = trainer.run(examples.pass(order, 7, settings), kGoOn);
          CHECK_LE(std::fabs(*losses / expected.losses - 1), 1e-5);
          double largest = 0;
          for (std::size_t u = 0; u < examples.columns; ++u) {
            largest = std::fmax(largest, std::fabs(expected.weights[u]));
            CHECK_LE(std::fabs(trainer.weights()[u] - expected.weights[u]), 2e-5);
            if (kernel.adaptive)
              CHECK_LE(std::fabs(trainer.squares()[u] - expected.squares[u]),
                       1e-4 * (1 + expected.squares[u]));
            const auto n = static_cast<float>(examples.rows() - settings.since);
            if (kernel.averages)
              CHECK_LE(std::fabs(trainer.weights()[u] - trainer.sums()[u] / n - expected.mean[u]),
                       2e-5);
          }
          CHECK_LE(0.01, largest);
          CHECK_EQ(trainer.squares().size(), kernel.adaptive ? examples.columns : 0);
        }
  }
}

// An example weighs as much as its derivative is multiplied by; with weight 0 it is not there.
void check_example_weights() {
  const Examples examples(61, kLengths, 4);
  const linear::Settings settings{0.05f, 0, 0, 0, kEpsilon, nullptr};
  std::vector<float> weights(examples.rows(), 0);
  weights[4] = 2;
  linear::Trainer trainer(linear_kernel("log_loss", "scaled"), linear_sync("hogwild"),
                          examples.columns, 1);
  const std::int64_t order[] = {0};
  linear::Pass pass = examples.pass(order, examples.rows(), settings);
  pass.rows.weights = weights.data();
  CHECK_LE(std::fabs(*trainer.run(pass, kGoOn) - 2 * std::log(2.0)), 1e-6);
  for (std::size_t u = 0; u < examples.columns; ++u) {
    double expected = 0;
    for (auto k = examples.begin[4]; k < examples.begin[5]; ++k) {
      const auto at = static_cast<std::size_t>(k);
      if (static_cast<std::size_t>(examples.column[at]) == u)
        expected = 0.05 * 2 * 0.5 * examples.target[4] * examples.value[at];
    }
    CHECK_LE(std::fabs(trainer.weights()[u] - expected), 1e-7);
  }
}

// However rare a column and large the penalty, a step shrinks its weight and never overshoots.
void check_penalty_is_stable() {
  Examples examples(1, {1}, 5);
  examples.spacing[0] = 1e6f;
  examples.value[0] = 0;
  const std::int64_t order[] = {0};
  for (const auto& [l1, l2] : {std::pair{0.0f, 1.0f}, {1.0f, 0.0f}}) {
    linear::Trainer trainer(linear_kernel("log_loss", "scaled"), linear_sync("hogwild"), 1, 1);
    trainer.weights()[0] = -3;
    trainer.run(examples.pass(order, 1, {0.1f, 0, l1, l2, 0, nullptr}), kGoOn);
    CHECK_LE(-1e-4f, trainer.weights()[0]);
    CHECK_LE(trainer.weights()[0], 0.0f);
  }
}

// Pages are allocated before first use, and other users cannot open them. The check needs root.
void check_memory() {
  current_case = "memory";
  constexpr std::size_t bytes = 1 << 20;
  const linear::Memory memory(bytes, 2, 4096);
  char path[64];
  const auto at = reinterpret_cast<std::uintptr_t>(memory.shared());
  std::snprintf(path, sizeof path, "/proc/self/map_files/%zx-%zx", at, at + bytes);
  struct stat file;
  if (stat(path, &file) != 0) return;
  CHECK_EQ(file.st_mode & 0777, 0600u);
  CHECK_LE(static_cast<blkcnt_t>(bytes / 512), file.st_blocks);
}

// The first failure is reported with its place, unless its prediction is not finite.
void check_custom_loss_that_fails() {
  linear::CustomLoss root([](double prediction, double target, double* found) {
    found[0] = std::sqrt(prediction);
    found[1] = target;
  });
  CHECK_EQ(root.at(4, 1).value, 2.0f);
  root.at(std::numeric_limits<float>::quiet_NaN(), 1);
  CHECK(!root.failure());
  root.at(-4, 7);
  root.at(-5, 8);
  const linear::CustomLoss::At first = root.failure().value();
  CHECK_EQ(first.prediction, -4.0f);
  CHECK_EQ(first.target, 7.0f);
  CHECK(std::isnan(first.value));
  CHECK_EQ(first.derivative, 7.0f);
}

}  // namespace

int main() {
  set_deadline();
  check_memory();
  check_losses(linear::Losses{});
  check_steps();
  check_example_weights();
  check_penalty_is_stable();
  check_custom_loss_that_fails();
}
