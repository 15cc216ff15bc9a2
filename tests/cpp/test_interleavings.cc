// Two workers update one element, or one row, in every interleaving of their accesses. The state of
// every rule must stay finite, its second moments must not become negative, and each step must be
// within the bound that sync/hogwild.h states.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <string_view>

#include "asyncopt/rules/list.h"
#include "interleave.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr int kRounds = count(2, 1);  // pushes of each worker

const std::map<std::string_view, double> kHyper{
    {"lr", 0.1},    {"momentum", 0.9}, {"dampening", 0}, {"maximize", 0},
    {"beta1", 0.9}, {"beta2", 0.999},  {"eps", 1e-8},    {"lr_decay", 0.1},
    {"rho", 0.9},   {"alpha", 0.99},   {"lambd", 1e-4},  {"t0", 1},
};
constexpr std::string_view kNotNegative[] = {"exp_avg_sq", "max_exp_avg_sq", "sum", "square_avg",
                                             "acc_delta"};

enum class Decay { none, coupled, decoupled };

struct Case {
  double first, second;  // gradients of the two workers
  Decay decay;

  double value(std::string_view name) const {
    if (name == "weight_decay") return decay == Decay::none ? 0 : 0.1;
    if (name == "decoupled_weight_decay") return decay == Decay::decoupled ? 1 : 0;
    if (name == "nesterov") return decay == Decay::none ? 0 : 1;
    return kHyper.at(name);
  }
};

// The largest change that push number `step` may make to a parameter. `g`: the largest gradient
// until then, its decay included; `width`: elements of a row.
double bound(std::string_view rule, double step, double g, double width) {
  const auto h = [](std::string_view name) { return kHyper.at(name); };
  const double lr = h("lr");
  if (rule == "sgd" || rule == "asgd") return lr * g;
  if (rule == "sgd_momentum") return lr * g / (1 - h("momentum"));
  if (rule == "adagrad") return lr;
  if (rule == "adagrad_rowwise") return lr * 2 * std::sqrt(width);
  if (rule == "adadelta") {  // acc_delta <- (1 + rho) acc_delta + eps, at most
    const double pushes = 2 * kRounds, acc_delta = std::pow(1 + h("rho"), pushes) / h("rho");
    return lr * std::sqrt(h("eps") * (acc_delta + 1) / (1 - h("rho")));
  }
  if (rule.starts_with("adam")) {
    const double beta1 = h("beta1"), beta2 = h("beta2");
    const double k = (1 - beta1) / std::sqrt((1 - beta2) * (1 - beta1 * beta1 / beta2));
    return std::max(2 * k, 20.0) * lr * std::sqrt(width * (1 - std::pow(beta2, step))) /
           (1 - std::pow(beta1, step));
  }
  CHECK(rule.starts_with("rmsprop"));
  double most = lr / std::sqrt(1 - h("alpha"));
  if (rule.find("centered") != rule.npos) most *= std::sqrt(std::ldexp(1, 25));
  if (rule.find("momentum") != rule.npos) most /= 1 - h("momentum");
  return most;
}

template <class Rule>
class Run {
 public:
  Run(How how, const Case& c)
      : how_(how), case_(c), largest_gradient_(std::max(std::abs(c.first), std::abs(c.second))) {}

  void check() {
    std::vector<Memory<Rule>> starts{Memory<Rule>{}};
    for (int round = 0; round < kRounds; ++round) {
      const std::array pushes{push(round, 0), push(round, 1)};
      Search search(how_, pushes, [&](const Write& w) { check_write(pushes[w.writer], w); });
      std::vector<Memory<Rule>> ends;
      for (const Memory<Rule>& start : starts) {
        const std::vector<Memory<Rule>> some = search.run(start);
        ends.insert(ends.end(), some.begin(), some.end());
        check_serial(start, pushes[0], pushes[1], some);
        check_serial(start, pushes[1], pushes[0], some);
      }
      starts = extremes(ends);
    }
  }

 private:
  using C = Cells<Rule>;

  GradientPush<Rule> push(int round, std::size_t writer) const {
    double values[kMaxHyper] = {};
    for (std::size_t i = 0; i < Rule::hyper_names.size(); ++i)
      values[i] = case_.value(Rule::hyper_names[i]);
    typename Rule::Hyper hyper;
    std::memcpy(&hyper, values, sizeof hyper);
    GradientPush<Rule> push;
    push.step = 2 * round + static_cast<int>(writer) + 1;
    // ASGD's eta and mu are those before the first step: the other worker has yet to store its own.
    double scalars[kMaxScalars] = {push.step, hyper.lr, 1};
    push.coef = Rule::template prepare<float>(hyper, scalars);
    const bool swapped = round == 1;
    const double g = (writer == 0) != swapped ? case_.first : case_.second;
    for (std::size_t i = 0; i < C::width; ++i) push.g[i] = static_cast<float>(i == 0 ? g : -g / 2);
    return push;
  }

  void check_write(const GradientPush<Rule>& push, const Write& write) {
    const double value = static_cast<double>(write.value), seen = static_cast<double>(write.seen);
    CHECK(std::isfinite(value));
    if (write.cell >= C::width) {
      const std::string_view slot = Rule::slot_names[C::slot_of(write.cell)];
      if (std::ranges::find(kNotNegative, slot) != std::end(kNotNegative)) CHECK_LE(0, value);
      return;
    }
    largest_parameter_ = std::max(largest_parameter_, std::abs(value));
    const double decay = case_.value("weight_decay") + kHyper.at("lambd");
    const double g = largest_gradient_ + decay * largest_parameter_;
    const double decoupled = kHyper.at("lr") * decay * std::abs(seen);
    const double rounding = 1e-6 * std::abs(seen);
    CHECK_LE(std::abs(value - seen),
             (1 + 1e-5) * bound(Rule::name, push.step, g, C::width) + decoupled + rounding);
  }

  // The engine's compiled loop ends, push after push, at one of the ends that were found.
  static void check_serial(const Memory<Rule>& start, const GradientPush<Rule>& first,
                           const GradientPush<Rule>& second,
                           const std::vector<Memory<Rule>>& ends) {
    Memory<Rule> memory = start;
    for (const GradientPush<Rule>* const push : {&first, &second}) {
      Span span{memory.data(), push->g.data(), {}, C::width, 0};
      for (std::size_t k = 0; k < C::slots; ++k) span.slots[k] = memory.data() + C::slot(k);
      kernel_of(Rule::name, "float32").loops.racy(&push->coef, span);
    }
    CHECK(std::ranges::find(ends, memory) != ends.end());
  }

  // States with the largest and smallest ratios between values, from which the search continues.
  static std::vector<Memory<Rule>> extremes(const std::vector<Memory<Rule>>& all) {
    std::vector<Memory<Rule>> kept;
    const auto keep = [&](auto measure) {
      const auto [least, most] = std::ranges::minmax_element(all, {}, measure);
      for (const auto& each : {*least, *most})
        if (std::ranges::find(kept, each) == kept.end()) kept.push_back(each);
    };
    for (std::size_t a = 0; a < C::count; a += C::width)
      for (std::size_t b = 0; b < a; b += C::width)
        keep([a, b](const Memory<Rule>& m) { return std::abs(m[a]) / (1e-30f + std::abs(m[b])); });
    keep([](const Memory<Rule>& m) { return m[0]; });
    return kept;
  }

  How how_;
  Case case_;
  double largest_gradient_, largest_parameter_ = 0;
};

template <class Rule>
void check_rule() {
  for (const How how : {How::racy, How::atomic, How::audit})
    for (const Decay decay : {Decay::none, Decay::coupled, Decay::decoupled}) {
      if (decay == Decay::decoupled && !std::string_view(Rule::name).starts_with("adam")) continue;
      for (const auto& [first, second] :
           {std::pair{1000.0, 1.0}, {1000.0, 10.0}, {1.0, -1000.0}, {1e-15, 1e8}, {0.0, 1000.0}}) {
        std::ostringstream name;
        name << Rule::name << ", " << name_of(how) << ", gradients " << first << " and " << second
             << ", decay " << static_cast<int>(decay);
        current_case = name.str();
        Run<Rule>(how, {first, second, decay}).check();
      }
    }
}

template <class... Rs>
void check_rules(List<Rs...>) {
  (check_rule<Rs>(), ...);
}

}  // namespace

int main() {
  set_deadline();
  check_rules(Rules{});
}
