// Every kernel against the reference, in every instruction set that this processor has.
#include <string>

#include "tensor.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

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
    for (std::size_t i = 0; i < n; ++i) expected[i] = tensor.element(i);
    reference(hyper, t, g, expected);
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
    std::vector<double> g(n);
    for (std::size_t i = 0; i < n; ++i) grad.set(i, g[i] = numbers());
    reference(hyper, t, g, expected);
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

// The effect of another worker's update between load and compare-exchange. Two of a rule's values
// share the same memory here: committing one is, to the other, a write of another worker.
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

// A missing instruction set is refused by name. The choice is made once per process, so a child
// checks it.
void check_unknown_isa() {
  const pid_t child = fork_child([] {
    setenv("ASYNCOPT_ISA", "abacus", 1);
    CHECK_THROWS(std::invalid_argument, "ASYNCOPT_ISA: expected one of baseline", kernels());
    CHECK_THROWS(std::invalid_argument, "got 'abacus'", kernels());
  });
  CHECK_EQ(wait_for(child, 60), 0);
}

}  // namespace

int main() {
  if (std::getenv("ASYNCOPT_ISA") == nullptr) check_unknown_isa();
  in_every_isa([] {
    check_kernels();
    check_conflicts();
    return digest;
  });
}
