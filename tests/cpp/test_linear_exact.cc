// Linear solvers that end at the optimum: their steps against float64, and the invariants that
// their workers keep.
#include <numeric>

#include "linear.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr float kEpsilon = 0.7f, kL2 = 0.02f;
constexpr auto kGoOn = [] { return true; };

std::vector<std::int64_t> in_order(std::size_t blocks) {
  std::vector<std::int64_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<std::size_t> lengths(std::size_t rows) {
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < rows; ++i)
    lengths.push_back(std::vector<std::size_t>{5, 0, 1, 15, 16, 17, 33}[i % 7]);
  return lengths;
}

template <class T>
double dot(const Examples& e, std::size_t row, std::span<const T> weights) {
  double sum = 0;
  for (auto k = static_cast<std::size_t>(e.begin[row]);
       k < static_cast<std::size_t>(e.begin[row + 1]); ++k)
    sum += static_cast<double>(e.value[k]) * weights[static_cast<std::size_t>(e.column[k])];
  return sum;
}

// The weights are the sum of the dual numbers times their examples, however many workers there are,
// where no update is lost. `each`: notes of an example, of which that number is the first.
void check_weights_follow(const Examples& e, const std::vector<float>& notes, std::size_t each,
                          std::span<const float> weights, double tolerance) {
  std::vector<double> expected(e.columns);
  const double scale = 1 / (static_cast<double>(kL2) * static_cast<double>(e.rows()));
  for (std::size_t i = 0; i < e.rows(); ++i)
    for (auto k = static_cast<std::size_t>(e.begin[i]);
         k < static_cast<std::size_t>(e.begin[i + 1]); ++k)
      expected[static_cast<std::size_t>(e.column[k])] +=
          scale * notes[i * each] * static_cast<double>(e.value[k]);
  for (std::size_t u = 0; u < e.columns; ++u)
    CHECK_LE(std::fabs(weights[u] - expected[u]), tolerance);
}

// After an example's step, its dual number is minus the derivative of its loss at its new
// prediction: no other value is better. Of the hinge, where that jumps, any between.
void check_dual_steps() {
  const Examples e(61, lengths(42), 3);
  std::vector<float> weights(e.rows(), 1);
  weights[5] = 2.5f;
  weights[7] = 0;
  for (const linear::Kernel& kernel : linear::kernels()) {
    if (std::string_view(kernel.step) != "dual") continue;
    current_case = kernel.loss;
    linear::Trainer trainer(kernel, linear_sync("hogwild"), e.columns, 1);
    Kept kept(e, trainer);
    std::vector<float>& notes = kept.notes;
    linear::Settings settings{0, 0, 0, kL2, kEpsilon, nullptr};
    for (int pass = 0; pass < 3; ++pass)
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(e.rows()); ++i) {
        const auto row = static_cast<std::size_t>(i);
        linear::Pass one = e.pass({&i, 1}, 1, settings);
        one.rows.weights = weights.data();
        kept.give(one);
        CHECK(trainer.run(one, kGoOn));
        const float note = notes[row * trainer.notes()];
        if (e.begin[row] == e.begin[row + 1] || weights[row] == 0) {
          CHECK_EQ(note, 0.0f);
          continue;
        }
        const double prediction = dot<float>(e, row, trainer.weights()), target = e.target[row];
        const double slope = textbook_derivative(kernel.loss, prediction, target, kEpsilon);
        if (std::string_view(kernel.loss) != "hinge") {
          CHECK_LE(std::fabs(note + weights[row] * slope), 1e-4);
        } else {
          const double beta = target * note, margin = target * prediction;
          CHECK_LE(-1e-6, beta);
          CHECK_LE(beta, weights[row] + 1e-6);
          if (beta > 1e-6) CHECK_LE(margin, 1 + 1e-4);
          if (beta < weights[row] - 1e-6) CHECK_LE(1 - 1e-4, margin);
        }
      }
    check_weights_follow(e, notes, trainer.notes(), trainer.weights(), 1e-5);
  }
}

// Passes of SAGA and SVRG in float64.
struct Reference {
  const Examples& e;
  std::string_view loss;
  std::vector<double> weights, sums, notes;

  Reference(const Examples& examples, std::string_view loss_)
      : e(examples), loss(loss_), weights(e.columns), sums(e.columns), notes(e.rows()) {}

  void take_notes() {
    std::ranges::fill(sums, 0.0);
    for (std::size_t i = 0; i < e.rows(); ++i) {
      notes[i] = textbook_derivative(loss, dot<double>(e, i, weights), e.target[i], kEpsilon);
      for (auto k = static_cast<std::size_t>(e.begin[i]);
           k < static_cast<std::size_t>(e.begin[i + 1]); ++k)
        sums[static_cast<std::size_t>(e.column[k])] +=
            notes[i] * e.value[k] / static_cast<double>(e.rows());
    }
  }

  void pass(double eta, double l1, double l2, bool takes_notes) {
    for (std::size_t i = 0; i < e.rows(); ++i) {
      const auto first = static_cast<std::size_t>(e.begin[i]);
      const auto last = static_cast<std::size_t>(e.begin[i + 1]);
      const double prediction = dot<double>(e, i, weights);
      const double slope = textbook_derivative(loss, prediction, e.target[i], kEpsilon);
      for (std::size_t k = first; k < last; ++k) {
        const auto u = static_cast<std::size_t>(e.column[k]);
        const double gap = e.spacing[u], change = (slope - notes[i]) * e.value[k];
        const double w = weights[u] - eta * (change + gap * sums[u]);
        const double shrunk = std::fmax(0, std::fabs(w) - eta * l1 * gap);
        weights[u] = std::copysign(shrunk / (1 + eta * l2 * gap), w);
        if (takes_notes) sums[u] += change / static_cast<double>(e.rows());
      }
      if (takes_notes) notes[i] = slope;
    }
  }
};

void check_corrected_steps() {
  const Examples e(61, lengths(42), 4);
  const auto order = in_order(6);
  for (const linear::Kernel& kernel : linear::kernels()) {
    if (kernel.notes == 0 || !kernel.sums) continue;
    const bool svrg = std::string_view(kernel.step) == "svrg";
    for (const char* const sync : {"hogwild", "atomic", "mutex"})
      for (const float l1 : {0.0f, 0.003f}) {
        current_case = std::string(kernel.loss) + " " + kernel.step + " " + sync;
        Reference expected(e, kernel.loss);
        linear::Trainer trainer(kernel, linear_sync(sync), e.columns, 1);
        const float l2 = l1 == 0 ? 0 : kL2;
        Kept kept(e, trainer);
        std::vector<double> at(e.columns), derivatives(e.rows()), gradient(e.columns);
        std::vector<float> base(e.columns);
        for (int i = 0; i < 6; ++i) {
          linear::Pass pass = e.pass(order, 7, {0.01f, 0, l1, l2, kEpsilon, nullptr});
          kept.give(pass);
          if (i % 2 == 0) {  // a new anchor
            for (std::size_t u = 0; u < e.columns; ++u) {
              at[u] = trainer.weights()[u] == -base[u] ? 0 : at[u] + trainer.weights()[u];
              base[u] = static_cast<float>(at[u]);
              trainer.weights()[u] = 0;
            }
            trainer.gauge(pass.rows, e.rows(), pass.settings,
                          {at.data(), kept.anchors.data(), derivatives.data(), gradient.data()});
            for (std::size_t r = 0; r < e.rows(); ++r) {
              CHECK_LE(std::fabs(kept.anchors[r].prediction - dot<double>(e, r, at)), 1e-12);
              kept.anchors[r].number = derivatives[r];
            }
            kept.notes.assign(e.rows(), 0);
            for (std::size_t u = 0; u < e.columns; ++u) {
              const double sign = base[u] > 0 ? 1 : base[u] < 0 ? -1 : 0;
              trainer.sums()[u] = static_cast<float>(gradient[u] / static_cast<double>(e.rows()) +
                                                     l2 * at[u] + l1 * sign);
            }
            expected.take_notes();
          }
          if (l1 > 0) pass.settings.base = base.data();
          expected.pass(0.01f, l1, l2, !svrg);
          CHECK(trainer.run(pass, kGoOn));
        }
        double largest = 0;
        for (std::size_t u = 0; u < e.columns; ++u) {
          const double weight = at[u] + trainer.weights()[u];
          largest = std::fmax(largest, std::fabs(expected.weights[u]));
          CHECK_LE(std::fabs(weight - expected.weights[u]), 1e-6);
          if (expected.weights[u] == 0) CHECK_EQ(trainer.weights()[u], -base[u]);
        }
        CHECK_LE(0.01, largest);
      }
  }
}

// Four workers, each example visited by one of them at a time.
void check_workers() {
  const Examples e(200, lengths(often(2100, 420)), 5);
  const auto order = in_order(e.rows() / 7);
  for (const linear::Sync& sync : linear::kSyncs) {
    current_case = sync.name;
    linear::Trainer dual(linear_kernel("squared_hinge", "dual"), sync, e.columns, 4);
    Kept of_dual(e, dual);
    linear::Pass pass = e.pass(order, 7, {0.01f, 0, 0, kL2, 0, nullptr});
    of_dual.give(pass);
    for (int i = 0; i < 5; ++i) CHECK(dual.run(pass, kGoOn));
    if (current_case != "hogwild")
      check_weights_follow(e, of_dual.notes, dual.notes(), dual.weights(), 1e-4);

    // The mean of the gradients is that of the notes, also where weights are raced for.
    linear::Trainer saga(linear_kernel("log_loss", "saga"), sync, e.columns, 4);
    Kept of_saga(e, saga);
    of_saga.give(pass);
    pass.settings.eta0 = 0.05f;
    for (int i = 0; i < 5; ++i) CHECK(saga.run(pass, kGoOn));
    for (float& note : of_saga.notes) note *= kL2;  // check_weights_follow divides by it
    check_weights_follow(e, of_saga.notes, saga.notes(), saga.sums(), 1e-5);
  }
}

// Dense examples that each worker could fit by itself: what their copies gain adds up to no more
// than there is to gain. Where it does, weights end up at 1 to 400.
void check_copies_do_not_overshoot() {
  Examples e(6, std::vector<std::size_t>(often(16000, 4000), 6), 6);
  e.curvature.assign(e.columns, 6);
  const auto order = in_order((e.rows() + 511) / 512);
  const auto weights = [&](const char* sync, std::size_t workers) {
    linear::Trainer trainer(linear_kernel("squared_error", "dual"), linear_sync(sync), e.columns,
                            workers);
    Kept kept(e, trainer);
    linear::Pass pass = e.pass(order, 512, {0.15f, 0, 0, 0.05f, 0, nullptr});
    kept.give(pass);
    for (int i = 0; i < 60; ++i) CHECK(trainer.run(pass, kGoOn));
    return std::vector<float>(trainer.weights().begin(), trainer.weights().end());
  };
  const std::vector<float> expected = weights("hogwild", 1);
  for (const char* const sync : {"unshared", "replicated"}) {
    current_case = std::string("copies ") + sync;
    const std::vector<float> found = weights(sync, 4);
    for (std::size_t u = 0; u < e.columns; ++u) CHECK_LE(std::fabs(found[u] - expected[u]), 0.05);
  }
}

// A step that is corrected by gradients needs them everywhere. The perceptron has no dual either:
// its minimum has weights of 0.
void check_undefined() {
  for (const linear::Kernel& kernel : linear::kernels()) {
    CHECK(kernel.loss != std::string_view("hinge") || kernel.notes == 0 || !kernel.sums);
    CHECK(kernel.loss != std::string_view("perceptron") || kernel.notes == 0);
  }
}

}  // namespace

int main() {
  set_deadline();
  check_dual_steps();
  check_corrected_steps();
  check_workers();
  check_copies_do_not_overshoot();
  check_undefined();
}
