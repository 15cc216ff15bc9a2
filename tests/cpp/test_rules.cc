// Every kernel against a scalar float64 reference that is written here from the formulas of torch's
// documentation, in every instruction set that this processor has.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

using Hyper = std::map<std::string, double>;

// One element: its parameter and its slots in the order of the kernel's names.
struct Element {
  double w;
  double s[kMaxSlots];
};

// torch's names: g gradient, t step. Each function updates one element in place.
using Reference = std::function<void(const Hyper&, double t, double g, Element&)>;

void sgd(const Hyper& h, bool momentum, double t, double g, Element& e) {
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  if (momentum) {
    e.s[0] = t > 1 ? h.at("momentum") * e.s[0] + (1 - h.at("dampening")) * g : g;
    g = h.at("nesterov") != 0 ? g + h.at("momentum") * e.s[0] : e.s[0];
  }
  e.w -= h.at("lr") * g;
}

void adam(const Hyper& h, bool amsgrad, double t, double g, Element& e) {
  const double beta1 = h.at("beta1"), beta2 = h.at("beta2");
  if (h.at("maximize") != 0) g = -g;
  if (h.at("decoupled_weight_decay") != 0)
    e.w -= h.at("lr") * h.at("weight_decay") * e.w;
  else
    g += h.at("weight_decay") * e.w;
  e.s[0] = beta1 * e.s[0] + (1 - beta1) * g;
  e.s[1] = beta2 * e.s[1] + (1 - beta2) * g * g;
  if (amsgrad) e.s[2] = std::max(e.s[2], e.s[1]);
  const double first = e.s[0] / (1 - std::pow(beta1, t));
  const double second = (amsgrad ? e.s[2] : e.s[1]) / (1 - std::pow(beta2, t));
  e.w -= h.at("lr") * first / (std::sqrt(second) + h.at("eps"));
}

void adagrad(const Hyper& h, double t, double g, Element& e) {
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.s[0] += g * g;
  const double lr = h.at("lr") / (1 + (t - 1) * h.at("lr_decay"));
  e.w -= lr * g / (std::sqrt(e.s[0]) + h.at("eps"));
}

void adadelta(const Hyper& h, double, double g, Element& e) {
  const double rho = h.at("rho"), eps = h.at("eps");
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.s[0] = rho * e.s[0] + (1 - rho) * g * g;
  const double delta = std::sqrt(e.s[1] + eps) / std::sqrt(e.s[0] + eps) * g;
  e.s[1] = rho * e.s[1] + (1 - rho) * delta * delta;
  e.w -= h.at("lr") * delta;
}

void rmsprop(const Hyper& h, bool centered, bool momentum, double, double g, Element& e) {
  const double alpha = h.at("alpha");
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.s[0] = alpha * e.s[0] + (1 - alpha) * g * g;
  double second = e.s[0];
  if (centered) {
    e.s[1] = alpha * e.s[1] + (1 - alpha) * g;
    second -= e.s[1] * e.s[1];
  }
  double step = g / (std::sqrt(second) + h.at("eps"));
  if (momentum) {
    double& buffer = e.s[centered ? 2 : 1];
    step = buffer = h.at("momentum") * buffer + step;
  }
  e.w -= h.at("lr") * step;
}

// eta and mu of step t are those that step t - 1 left; torch starts with lr and 1, and keeps both
// in float32.
float asgd_eta(const Hyper& h, double t) {
  if (t == 1) return static_cast<float>(h.at("lr"));
  return static_cast<float>(h.at("lr") /
                            std::pow(1 + h.at("lambd") * h.at("lr") * (t - 1), h.at("alpha")));
}
float asgd_mu(const Hyper& h, double t) {
  return t == 1 ? 1 : static_cast<float>(1 / std::max(1.0, t - 1 - h.at("t0")));
}
void asgd(const Hyper& h, double t, double g, Element& e) {
  const double eta = static_cast<double>(asgd_eta(h, t)), mu = static_cast<double>(asgd_mu(h, t));
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.w = e.w * (1 - h.at("lambd") * eta) - eta * g;
  e.s[0] = mu == 1 ? e.w : e.s[0] + (e.w - e.s[0]) * mu;
}

template <auto Function, auto... Flags>
Reference reference() {
  return [](const Hyper& h, double t, double g, Element& e) { Function(h, Flags..., t, g, e); };
}

const std::map<std::string, Reference> kReferences{
    {"sgd", reference<sgd, false>()},
    {"sgd_momentum", reference<sgd, true>()},
    {"adam", reference<adam, false>()},
    {"adam_amsgrad", reference<adam, true>()},
    {"adagrad", reference<adagrad>()},
    {"adadelta", reference<adadelta>()},
    {"rmsprop", reference<rmsprop, false, false>()},
    {"rmsprop_momentum", reference<rmsprop, false, true>()},
    {"rmsprop_centered", reference<rmsprop, true, false>()},
    {"rmsprop_centered_momentum", reference<rmsprop, true, true>()},
    {"asgd", reference<asgd>()},
};

// The values that each hyperparameter takes, in all combinations.
const std::map<std::string, std::vector<double>> kValues{
    {"lr", {0.1}},           {"momentum", {0.9}},
    {"dampening", {0, 0.3}}, {"weight_decay", {0, 0.2}},
    {"nesterov", {0, 1}},    {"maximize", {0, 1}},
    {"beta1", {0.8}},        {"beta2", {0.95}},
    {"eps", {1e-3}},         {"decoupled_weight_decay", {0, 1}},
    {"lr_decay", {0, 0.5}},  {"rho", {0.9}},
    {"alpha", {0.75}},       {"lambd", {0.01}},
    {"t0", {1, 1e6}},
};

std::vector<Hyper> combinations(const Kernel& kernel) {
  std::vector<Hyper> all(1);
  for (const char* const name : kernel.hyper) {
    if (!kValues.contains(name))
      fail(__FILE__, __LINE__, std::string("give the hyperparameter values to test: ") + name);
    std::vector<Hyper> longer;
    for (const Hyper& h : all)
      for (const double value : kValues.at(name)) {
        longer.push_back(h);
        longer.back()[name] = value;
      }
    all = std::move(longer);
  }
  return all;
}

// n elements between guard bytes that nothing may touch; the first is not aligned to a vector.
class Guarded {
 public:
  Guarded(std::string_view dtype, std::size_t element_bytes, std::size_t n)
      : dtype_(dtype),
        begin_(3 * element_bytes),
        end_(begin_ + n * element_bytes),
        bytes_(end_ + kAfter, kFill) {}

  std::byte* data() { return bytes_.data() + begin_; }
  double operator[](std::size_t i) const { return get(dtype_, bytes_.data() + begin_, i); }
  void set(std::size_t i, double value) { put(dtype_, data(), i, value); }
  bool intact() const {
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      if ((i < begin_ || i >= end_) && bytes_[i] != kFill) return false;
    return true;
  }
  std::string_view dtype() const { return dtype_; }

 private:
  static constexpr std::size_t kAfter = 256;
  static constexpr std::byte kFill{0xA5};
  std::string_view dtype_;
  std::size_t begin_, end_;
  std::vector<std::byte> bytes_;
};

enum class Loop { racy, atomic, audit };

// A tensor on its own, stepped through a kernel's function pointers.
struct Tensor {
  const Kernel& kernel;
  Guarded param;
  std::vector<Guarded> slots;
  double scalars[kMaxScalars] = {};
  std::vector<double> hyper;

  Tensor(const Kernel& k, std::size_t n, const Hyper& h)
      : kernel(k), param(k.param_dtype, k.param_bytes, n) {
    Numbers numbers(7);
    for (std::size_t i = 0; i < n; ++i) param.set(i, numbers());
    for (std::size_t s = 0; s < k.slots.size(); ++s) {
      slots.emplace_back(k.state_dtype, k.state_bytes, n);
      for (std::size_t i = 0; i < n; ++i) slots.back().set(i, 0);
    }
    for (const char* const name : k.hyper) hyper.push_back(h.at(name));
    if (std::string_view(k.rule) == "asgd") {
      scalars[1] = h.at("lr");
      scalars[2] = 1;
    }
  }

  void step(Loop loop, std::size_t n, const void* grad, std::uint32_t seed) {
    alignas(16) std::byte coef[kMaxCoef];
    scalars[0] += 1;
    kernel.prepare(hyper.data(), scalars, coef);
    Span span{param.data(), grad, {}, n, seed};
    for (std::size_t s = 0; s < slots.size(); ++s) span.slots[s] = slots[s].data();
    Tally tally;
    if (loop == Loop::racy) kernel.loops.racy(coef, span);
    if (loop == Loop::atomic) kernel.loops.atomic(coef, span, tally);
    if (loop == Loop::audit) kernel.loops.audit(coef, span, tally);
    CHECK_EQ(tally.retries + tally.lost_updates + tally.lost_state_updates, 0u);
  }

  Element element(std::size_t i) const {
    Element e{param[i], {}};
    for (std::size_t s = 0; s < slots.size(); ++s) e.s[s] = slots[s][i];
    return e;
  }
};

// Rounding errors of some steps in the arithmetic type, for values of about 1.
double tolerance(const Kernel& kernel, double value) {
  return (std::string_view(kernel.param_dtype) == "float64" ? 1e-13 : 1e-5) * (1 + std::abs(value));
}

void check_against_reference(const Kernel& kernel, Loop loop, const Hyper& hyper, std::size_t n) {
  const Reference& reference = kReferences.at(kernel.rule);
  Tensor tensor(kernel, n, hyper);
  Guarded grad(kernel.param_dtype, kernel.param_bytes, n);
  Numbers numbers(8);
  for (std::uint32_t t = 1; t <= 4; ++t) {
    std::vector<double> g(n);
    for (std::size_t i = 0; i < n; ++i) grad.set(i, g[i] = numbers());
    // Errors are those of one step: random rounding would let longer paths drift apart.
    std::vector<Element> expected(n);
    for (std::size_t i = 0; i < n; ++i) reference(hyper, t, g[i], expected[i] = tensor.element(i));
    tensor.step(loop, n, grad.data(), 1000 + t);
    for (std::size_t i = 0; i < n; ++i) {
      const Element got = tensor.element(i);
      const auto check = [&](std::string_view dtype, double want, double have) {
        if (!rounds_to(dtype, want, have, tolerance(kernel, want)))
          fail(__FILE__, __LINE__, "not what the reference gives", want, have);
      };
      check(kernel.param_dtype, expected[i].w, got.w);
      for (std::size_t s = 0; s < kernel.slots.size(); ++s)
        check(kernel.state_dtype, expected[i].s[s], got.s[s]);
      CHECK_EQ(grad[i], g[i]);
    }
    CHECK_EQ(tensor.scalars[0], t);
    CHECK(tensor.param.intact() && grad.intact());
    for (const Guarded& slot : tensor.slots) CHECK(slot.intact());
  }
}

// Many steps in a row, so that an error that builds up (a wrong moment, a stale eta) shows.
void check_path(const Kernel& kernel, const Hyper& hyper) {
  constexpr std::size_t n = 17;
  const Reference& reference = kReferences.at(kernel.rule);
  Tensor tensor(kernel, n, hyper);
  Guarded grad(kernel.param_dtype, kernel.param_bytes, n);
  std::vector<Element> expected(n);
  for (std::size_t i = 0; i < n; ++i) expected[i] = tensor.element(i);
  Numbers numbers(9);
  for (std::uint32_t t = 1; t <= 50; ++t) {
    for (std::size_t i = 0; i < n; ++i) {
      const double g = numbers();
      grad.set(i, g);
      reference(hyper, t, g, expected[i]);
    }
    tensor.step(Loop::racy, n, grad.data(), t);
  }
  for (std::size_t i = 0; i < n; ++i)
    if (!(std::abs(expected[i].w - tensor.param[i]) <= 20 * tolerance(kernel, expected[i].w)))
      fail(__FILE__, __LINE__, "the paths part", expected[i].w, tensor.param[i]);
}

// FNV-1a over all results of this process: equal for every instruction set.
std::uint64_t digest = 0xCBF29CE484222325u;
void digest_value(double x) {
  digest = (digest ^ __builtin_bit_cast(std::uint64_t, x)) * 0x100000001B3u;
}

// Vectorized or not, and by compare-exchange or not, the same operations give the same bits.
void check_loops_agree(const Kernel& kernel, const Hyper& hyper) {
  constexpr std::size_t n = 49;
  Tensor racy(kernel, n, hyper), atomic(kernel, n, hyper), audit(kernel, n, hyper);
  Guarded grad(kernel.param_dtype, kernel.param_bytes, n);
  Numbers numbers(10);
  for (std::uint32_t t = 1; t <= 4; ++t) {
    for (std::size_t i = 0; i < n; ++i) grad.set(i, numbers());
    racy.step(Loop::racy, n, grad.data(), t);
    atomic.step(Loop::atomic, n, grad.data(), t);
    audit.step(Loop::audit, n, grad.data(), t);
  }
  for (std::size_t i = 0; i < n; ++i) {
    CHECK_EQ(racy.param[i], atomic.param[i]);
    CHECK_EQ(racy.param[i], audit.param[i]);
    digest_value(racy.param[i]);
    for (std::size_t s = 0; s < racy.slots.size(); ++s) {
      CHECK_EQ(racy.slots[s][i], atomic.slots[s][i]);
      CHECK_EQ(racy.slots[s][i], audit.slots[s][i]);
      digest_value(racy.slots[s][i]);
    }
  }
}

void check_kernels() {
  constexpr std::size_t lanes = 16;  // of float32 in the widest vector
  for (const Kernel& kernel : kernels()) {
    if (!kReferences.contains(kernel.rule))
      fail(__FILE__, __LINE__, std::string("write a reference for the rule ") + kernel.rule);
    const auto dtypes = std::string(kernel.param_dtype) + "/" + kernel.state_dtype;
    const bool rounds = dtypes.find("bfloat16") != std::string::npos;
    for (const Hyper& hyper : combinations(kernel)) {
      current_case = std::string(picked_isa()) + " " + kernel.rule + " " + dtypes;
      for (const auto& [name, value] : hyper)
        current_case += " " + name + "=" + std::to_string(value);
      if (!rounds) check_path(kernel, hyper);
      check_loops_agree(kernel, hyper);
      for (const std::size_t n :
           {std::size_t{0}, std::size_t{1}, lanes - 1, lanes, lanes + 1, 3 * lanes + 1})
        for (const Loop loop : {Loop::racy, Loop::atomic, Loop::audit})
          check_against_reference(kernel, loop, hyper, n);
    }
  }
  current_case = picked_isa();
}

void check_rounding_of_numbers() {
  using Limits = std::numeric_limits<float>;
  constexpr int draws = 1 << 16;
  for (const float x : {1.0f, 1.001f, -1.001f, 3.14159f, -2.71828e20f, 1.5e-39f, 0.1f}) {
    const double below = bfloat16_below(x), above = bfloat16_above(x);
    // Every 16-bit draw once: the mean must be the value itself.
    double sum = 0;
    for (std::uint32_t r = 0; r < draws; ++r) {
      const double y = static_cast<double>(widen(narrow<bfloat16>(x, r)));
      if (std::abs(x) > Limits::min()) CHECK(y == below || y == above);
      sum += y;
    }
    CHECK_LE(std::abs(sum / draws - static_cast<double>(x)), 1e-12 * std::abs(sum / draws));
  }
  for (const std::uint32_t r : {0u, 1u, 0x7FFFu, 0x8000u, 0xFFFFu, 0xFFFFFFFFu}) {
    const auto rounded = [r](float x) { return widen(narrow<bfloat16>(x, r)); };
    CHECK_EQ(rounded(Limits::infinity()), Limits::infinity());
    CHECK_EQ(rounded(-Limits::infinity()), -Limits::infinity());
    CHECK(std::isnan(rounded(Limits::quiet_NaN())));
    CHECK(std::isnan(rounded(-Limits::quiet_NaN())));
    CHECK(std::isnan(rounded(__builtin_bit_cast(float, 0x7F800001u))));  // payload in the low half
    CHECK(std::isnan(rounded(__builtin_bit_cast(float, 0xFFFFFFFFu))));
    CHECK_EQ(rounded(0.0f), 0.0f);
    CHECK(std::signbit(rounded(-0.0f)));
    CHECK_EQ(rounded(1.5f), 1.5f);  // exact already
  }
}

// What the loops make of `seed` over many pushes: unbiased, each array with draws of its own.
void check_rounding_of_kernels() {
  constexpr std::size_t n = 32;
  constexpr std::uint32_t seeds = count(4096, 1024);
  for (const Kernel& kernel : kernels()) {
    if (std::string_view(kernel.state_dtype) != "bfloat16") continue;
    for (const Loop loop : {Loop::racy, Loop::atomic}) {
      current_case = std::string(kernel.rule) + " " + kernel.param_dtype;
      Hyper hyper;
      for (const char* const name : kernel.hyper) hyper[name] = kValues.at(name).back();
      Guarded grad(kernel.param_dtype, kernel.param_bytes, n);
      Numbers numbers(11);
      for (std::size_t i = 0; i < n; ++i) grad.set(i, numbers());
      const std::size_t arrays = 1 + kernel.slots.size();
      std::vector<Element> exact(n);
      // Per array: how many values rounded up, less what was to be expected; and its variance.
      std::vector<double> excess(arrays), variance(arrays);
      // Per pair of arrays: the sum of the products of their deviations; and its variance.
      std::vector<double> product(arrays * arrays), product_variance(arrays * arrays);
      for (std::uint32_t seed = 0; seed < seeds; ++seed) {
        Tensor tensor(kernel, n, hyper);
        for (std::size_t i = 0; i < n; ++i) {
          exact[i] = tensor.element(i);
          kReferences.at(kernel.rule)(hyper, 1, grad[i], exact[i]);
        }
        tensor.step(loop, n, grad.data(), noise(seed, 1));  // as a push's first tensor
        for (std::size_t i = 0; i < n; ++i) {
          const Element got = tensor.element(i);
          double deviation[1 + kMaxSlots] = {}, spread[1 + kMaxSlots] = {};
          for (std::size_t a = 0; a < arrays; ++a) {
            if (a == 0 && std::string_view(kernel.param_dtype) != "bfloat16") continue;
            const double x = a == 0 ? exact[i].w : exact[i].s[a - 1];
            const double y = a == 0 ? got.w : got.s[a - 1];
            const double below = bfloat16_below(x), unit = bfloat16_above(x) - below;
            if (unit == 0) continue;
            const double up = (x - below) / unit;
            deviation[a] = (y > x ? 1 : 0) - up;
            spread[a] = up * (1 - up);
            excess[a] += deviation[a];
            variance[a] += spread[a];
          }
          for (std::size_t a = 0; a < arrays; ++a)
            for (std::size_t b = 0; b < a; ++b) {
              product[a * arrays + b] += deviation[a] * deviation[b];
              product_variance[a * arrays + b] += spread[a] * spread[b];
            }
        }
      }
      for (std::size_t a = 0; a < arrays; ++a) {
        CHECK_LE(std::abs(excess[a]), 4 * std::sqrt(variance[a]));
        for (std::size_t b = 0; b < a; ++b)
          CHECK_LE(std::abs(product[a * arrays + b]),
                   4 * std::sqrt(product_variance[a * arrays + b]));
      }
    }
  }
}

// Bad gradients reach the parameter as in torch, and rounding makes nothing finite of them.
void check_nonfinite_stay() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const Kernel& kernel : kernels())
    for (const Loop loop : {Loop::racy, Loop::atomic, Loop::audit})
      for (const double bad : {inf, -inf, std::numeric_limits<double>::quiet_NaN()}) {
        current_case = std::string(kernel.rule) + " " + kernel.param_dtype;
        Hyper hyper;
        for (const char* const name : kernel.hyper) hyper[name] = kValues.at(name).front();
        Tensor tensor(kernel, 17, hyper);
        Guarded grad(kernel.param_dtype, kernel.param_bytes, 17);
        for (std::size_t i = 0; i < 17; ++i) grad.set(i, i % 4 == 0 ? bad : 0.5);
        for (std::uint32_t seed = 0; seed < 8; ++seed) tensor.step(loop, 17, grad.data(), seed);
        for (std::size_t i = 0; i < 17; ++i) CHECK_EQ(std::isfinite(tensor.param[i]), i % 4 != 0);

        // Without weight decay an infinite parameter is no part of the gradient.
        if (std::isnan(bad)) continue;
        Tensor infinite(kernel, 17, hyper);
        for (std::size_t i = 0; i < 17; ++i) {
          infinite.param.set(i, bad);
          grad.set(i, 0.5);
        }
        infinite.step(loop, 17, grad.data(), 1);
        for (std::size_t i = 0; i < 17; ++i) CHECK_EQ(infinite.param[i], bad);
      }
}

// What another worker's update between load and compare-exchange does. Here the same memory serves
// as two of a rule's values: committing one is to the other as if somebody had written it.
void check_conflicts() {
  for (const Kernel& kernel : kernels()) {
    const std::string_view rule = kernel.rule, dtype = kernel.param_dtype;
    const bool parameter = rule == "sgd_momentum";
    if ((!parameter && rule != "adam") || dtype != kernel.state_dtype) continue;
    current_case = std::string(rule) + " " + kernel.param_dtype;
    for (const bool audit : {false, true}) {
      alignas(8) std::byte shared[8], other[8], grad[8];
      put(dtype, shared, 0, parameter ? 8 : 4);
      put(dtype, other, 0, 1);
      put(dtype, grad, 0, 1);
      Span span{parameter ? shared : other, grad, {shared, shared}, 1, 0};
      const double sgd_hyper[kMaxHyper] = {1, 1};
      const double adam_hyper[kMaxHyper] = {0.1, 0.5, 0.5, 1e-3};
      double scalars[kMaxScalars] = {2};
      alignas(16) std::byte coef[kMaxCoef];
      kernel.prepare(parameter ? sgd_hyper : adam_hyper, scalars, coef);
      Tally tally;
      (audit ? kernel.loops.audit : kernel.loops.atomic)(coef, span, tally);
      // The buffer becomes 8 + 1; the parameter finds 9 where 8 was, and takes the buffer off it.
      // exp_avg becomes (4 + 1) / 2; exp_avg_sq finds that where 4 was, and goes on from it.
      const double first = parameter ? 9 : 2.5, again = parameter ? 0 : 1.75;
      CHECK_EQ(get(dtype, shared, 0), audit ? first : again);
      CHECK_EQ(tally.retries, audit ? 0u : 1u);
      CHECK_EQ(tally.lost_updates, audit && parameter ? 1u : 0u);
      CHECK_EQ(tally.lost_state_updates, audit && !parameter ? 1u : 0u);
    }
  }
}

void check_finite() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const char* const dtype : {"float32", "float64", "bfloat16"}) {
    const Kernel& kernel = kernel_of("sgd", dtype);
    for (const std::size_t n : {0u, 1u, 15u, 16u, 17u, 49u, 4095u, 4096u, 4097u, 10000u}) {
      Guarded values(dtype, kernel.param_bytes, n);
      for (std::size_t i = 0; i < n; ++i) values.set(i, i % 2 == 0 ? 3e38 : -1e-40);
      CHECK(kernel.loops.finite(values.data(), n));
      if (n == 0) continue;
      for (const double bad : {inf, -inf, std::numeric_limits<double>::quiet_NaN()})
        for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
          const double good = values[at];
          values.set(at, bad);
          CHECK(!kernel.loops.finite(values.data(), n));
          values.set(at, good);
        }
    }
  }
}

// Runs this program under an instruction set; returns the digest of its results.
std::uint64_t run_with_isa(const char* isa) {
  current_case = isa;
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  const pid_t child = fork_child([isa, &ends] {
    setenv("ASYNCOPT_ISA", isa, 1);
    dup2(ends[1], STDOUT_FILENO);
    execl("/proc/self/exe", "test_rules", static_cast<char*>(nullptr));
    _exit(127);
  });
  CHECK_EQ(wait_for(child, 250), 0);
  std::uint64_t result = 0;
  CHECK_EQ(read(ends[0], &result, sizeof result), static_cast<ssize_t>(sizeof result));
  close(ends[0]);
  close(ends[1]);
  return result;
}

}  // namespace

int main() {
  const char* const wanted = std::getenv("ASYNCOPT_ISA");
  if (wanted == nullptr) {
    CHECK_EQ(picked_isa(), std::string(available_isas().back()));
    const std::uint64_t first = run_with_isa(available_isas()[0]);
    for (const char* const isa : available_isas().subspan(1)) CHECK_EQ(run_with_isa(isa), first);
    run_with_isa("abacus");
    return 0;
  }
  if (std::string_view(wanted) == "abacus") {
    CHECK_THROWS(std::invalid_argument, "ASYNCOPT_ISA: expected one of baseline", kernels());
    CHECK_THROWS(std::invalid_argument, "got 'abacus'", kernels());
  } else {
    CHECK_EQ(wanted, std::string(picked_isa()));
    check_kernels();
    check_rounding_of_numbers();
    check_rounding_of_kernels();
    check_nonfinite_stay();
    check_conflicts();
    check_finite();
  }
  CHECK_EQ(write(STDOUT_FILENO, &digest, sizeof digest), static_cast<ssize_t>(sizeof digest));
}
