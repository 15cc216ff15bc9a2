// Builds the table of kernels: the loops of the instruction set in use, with the properties of each
// rule and dtype.
#include <cstring>
#include <vector>

#include "asyncopt/base/isa.h"
#include "asyncopt/kernels/kernels.h"
#include "asyncopt/rules/list.h"

ASYNCOPT_PER_ISA(dense, std::span<const ::asyncopt::Loops>, loops)

namespace asyncopt {
namespace {

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

}  // namespace

std::span<const Kernel> kernels() {
  static const std::vector<Kernel> all = join(dense::picked_loops().data(), Rules{}, Dtypes{});
  return all;
}

const Kernel* find_kernel(std::string_view rule, std::string_view param_dtype,
                          std::string_view state_dtype) {
  for (const Kernel& k : kernels())
    if (rule == k.rule && param_dtype == k.param_dtype && state_dtype == k.state_dtype) return &k;
  return nullptr;
}

}  // namespace asyncopt
