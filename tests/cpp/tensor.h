// A tensor on its own that a test steps through a kernel's function pointers, and the way to do so
// in every instruction set.
#pragma once

#include <cstdlib>
#include <stdexcept>

#include "asyncopt/base/isa.h"
#include "references.h"
#include "support.h"

namespace asyncopt::test {

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

// Runs this program under an instruction set; returns the digest of its results.
inline std::uint64_t run_with_isa(const char* isa) {
  current_case = isa;
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  const pid_t child = fork_child([isa, &ends] {
    setenv("ASYNCOPT_ISA", isa, 1);
    dup2(ends[1], STDOUT_FILENO);
    execl("/proc/self/exe", "test", static_cast<char*>(nullptr));
    _exit(127);
  });
  CHECK_EQ(wait_for(child, 250), 0);
  std::uint64_t result = 0;
  CHECK_EQ(read(ends[0], &result, sizeof result), static_cast<ssize_t>(sizeof result));
  close(ends[0]);
  close(ends[1]);
  return result;
}

// Entry point for main(): runs body() in a separate process for each instruction set that this
// processor has, and compares the digests that it returns.
template <class Body>
void in_every_isa(Body body) {
  if (const char* const wanted = std::getenv("ASYNCOPT_ISA"); wanted != nullptr) {
    CHECK_EQ(wanted, std::string(picked_isa()));
    const std::uint64_t digest = body();
    CHECK_EQ(write(STDOUT_FILENO, &digest, sizeof digest), static_cast<ssize_t>(sizeof digest));
    return;
  }
  CHECK_EQ(picked_isa(), std::string(available_isas().back()));
  const std::uint64_t first = run_with_isa(available_isas()[0]);
  for (const char* const isa : available_isas().subspan(1)) CHECK_EQ(run_with_isa(isa), first);
}

}  // namespace asyncopt::test
