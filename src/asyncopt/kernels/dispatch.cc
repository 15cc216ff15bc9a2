// Picks the instruction set once, when the first kernel is asked for, and joins its loops with the
// facts that the lists give about each rule.
#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "asyncopt/kernels/kernels.h"
#include "asyncopt/rules/idle.h"

namespace asyncopt {

namespace baseline {
extern const Loops* const loops;
}
#ifdef ASYNCOPT_HAVE_X86_ISAS
namespace avx2 {
extern const Loops* const loops;
}
namespace avx512 {
extern const Loops* const loops;
}
#endif

namespace {

struct Isa {
  const char* name;
  const Loops* loops;
};

std::vector<Isa> detect() {
  std::vector<Isa> found{{"baseline", baseline::loops}};
#ifdef ASYNCOPT_HAVE_X86_ISAS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back({"avx2", avx2::loops});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back({"avx512", avx512::loops});
#endif
  return found;
}

Isa pick(const std::vector<Isa>& found) {
  const char* const wanted = std::getenv("ASYNCOPT_ISA");
  if (wanted == nullptr || *wanted == '\0') return found.back();
  std::string known;
  for (const Isa& isa : found) {
    if (std::strcmp(isa.name, wanted) == 0) return isa;
    known += known.empty() ? isa.name : std::string(", ") + isa.name;
  }
  throw std::invalid_argument("ASYNCOPT_ISA: expected one of " + known +
                              " (what this build and processor have), got '" + wanted +
                              "'; correct or unset it");
}

template <class Rule, class C>
void prepare(const double* hyper, double* scalars, void* coef) {
  using Hyper = typename Rule::Hyper;
  using Coef = typename Rule::template Coef<C>;
  static_assert(sizeof(Hyper) == Rule::hyper_names.size() * sizeof(double),
                "a name for every hyperparameter");
  static_assert(Rule::hyper_names.size() <= kMaxHyper && Rule::slot_names.size() <= kMaxSlots &&
                Rule::scalar_names.size() <= kMaxScalars && sizeof(Coef) <= kMaxCoef);
  Hyper h;
  std::memcpy(&h, hyper, sizeof h);
  const Coef c = Rule::template prepare<C>(h, scalars);
  std::memcpy(coef, &c, sizeof c);
}

template <class Rule, class D>
Kernel describe(const Loops& loops) {
  using Param = typename D::param;
  using State = typename D::state;
  return {Rule::name,
          dtype_name<Param>,
          dtype_name<State>,
          sizeof(Param),
          sizeof(State),
          Rule::hyper_names,
          Rule::slot_names,
          Rule::scalar_names,
          row_slots_of<Rule>,
          sizeof(typename Rule::template Coef<arithmetic_t<Param>>),
          &prepare<Rule, arithmetic_t<Param>>,
          IdleOf<Rule, arithmetic_t<Param>>::steps,
          loops};
}

template <class... Rs, class... Ds>
std::vector<Kernel> join(const Loops* loops, List<Rs...>, List<Ds...> dtypes) {
  std::vector<Kernel> all;
  const auto row = [&]<class R, class... Dtype>(List<R>, List<Dtype...>) {
    (all.push_back(describe<R, Dtype>(*loops++)), ...);
  };
  (row(List<Rs>{}, dtypes), ...);
  return all;
}

struct Registry {
  std::vector<const char*> names;
  Isa isa;
  std::vector<Kernel> kernels;
  Registry() {
    const std::vector<Isa> found = detect();
    for (const Isa& each : found) names.push_back(each.name);
    isa = pick(found);
    kernels = join(isa.loops, Rules{}, Dtypes{});
  }
};

const Registry& registry() {
  static const Registry instance;
  return instance;
}

}  // namespace

std::span<const Kernel> kernels() { return registry().kernels; }
std::span<const char* const> available_isas() { return registry().names; }
const char* picked_isa() { return registry().isa.name; }

const Kernel* find_kernel(std::string_view rule, std::string_view param_dtype,
                          std::string_view state_dtype) {
  for (const Kernel& k : kernels())
    if (rule == k.rule && param_dtype == k.param_dtype && state_dtype == k.state_dtype) return &k;
  return nullptr;
}

}  // namespace asyncopt
