// The lists define the build: a rule declared as one struct here uses the same templates as the
// built-in ones, and the build offers exactly the entries of its lists.
#include <set>
#include <string>
#include <tuple>

#include "support.h"

#define ASYNCOPT_ISA in_this_test
#include "asyncopt/kernels/table.h"

namespace asyncopt {

// Signum: Bernstein et al., arXiv 1802.04434. The complete definition of a new rule.
struct Signum {
  static constexpr const char* name = "signum";
  struct Hyper {
    double lr, momentum;
  };
  static constexpr Names<2> hyper_names{"lr", "momentum"};
  static constexpr Names<1> slot_names{"momentum_buffer"};
  static constexpr Names<1> scalar_names{"step"};

  template <class C>
  struct Coef {
    C lr, momentum, fresh;
  };
  template <class C>
  static Coef<C> prepare(const Hyper& h, double*) {
    return {static_cast<C>(h.lr), static_cast<C>(h.momentum), static_cast<C>(1 - h.momentum)};
  }
  template <class C>
  ASYNCOPT_HD static ASYNCOPT_INLINE void apply(const Coef<C>& c, C& w, C g, C* s) {
    s[0] = c.momentum * s[0] + c.fresh * g;
    w -= c.lr * (s[0] < 0 ? C(-1) : C(1));
  }
};

namespace {

using namespace test;
using Extended = in_this_test::LoopTable<List<Signum, SGD<false>>, Dtypes>;
static_assert(Extended::size == 2 * Dtypes::size);

// The dispatcher's result for an entry of this test's list.
template <class Rule, class D>
Kernel kernel_from(const Loops& loops) {
  using C = arithmetic_t<typename D::param>;
  using Coef = typename Rule::template Coef<C>;
  static_assert(sizeof(Coef) <= kMaxCoef);
  return {Rule::name,
          dtype_name<typename D::param>,
          dtype_name<typename D::state>,
          sizeof(typename D::param),
          sizeof(typename D::state),
          Rule::hyper_names,
          Rule::slot_names,
          Rule::scalar_names,
          row_slots_of<Rule>,
          sizeof(Coef),
          [](const double* hyper, double* scalars, void* coef) {
            typename Rule::Hyper h;
            std::memcpy(&h, hyper, sizeof h);
            const Coef c = Rule::template prepare<C>(h, scalars);
            std::memcpy(coef, &c, sizeof c);
          },
          IdleOf<Rule, C>::steps,
          loops};
}

// Three pushes under every sync: first one way, then by momentum the same way, then back.
void step_new_rule(const Kernel& kernel, const SyncInfo& sync) {
  constexpr std::size_t n = 49;
  const Store store(sync.name, 1, {{&kernel, n}});
  std::vector<std::byte> grad(n * kernel.param_bytes);
  Block block = store.blocks[0];
  block.grad = grad.data();
  Group group = group_of(kernel, {{"lr", 0.25}, {"momentum", 0.5}});
  group.blocks = {&block, 1};

  const double gradients[] = {1, -0.75, -1};
  const double buffers[] = {0.5, -0.125, -0.5625};
  const double parameters[] = {-0.25, 0, 0.25};
  for (std::uint32_t t = 0; t < 3; ++t) {
    for (std::size_t i = 0; i < n; ++i)
      put(kernel.param_dtype, grad.data(), i, i % 2 == 0 ? gradients[t] : -gradients[t]);
    push(store.segment, 0, {.groups = {&group, 1}, .seed = t});
    for (std::size_t i = 0; i < n; ++i) {
      const double sign = i % 2 == 0 ? 1 : -1;
      CHECK_EQ(get(kernel.param_dtype, store.param<void>(), i), sign * parameters[t]);
      CHECK_EQ(get(kernel.state_dtype, store.slot<void>(0), i), sign * buffers[t]);
    }
    CHECK_EQ(*store.scalars(), t + 1);
  }
}

template <class... Ds>
void step_new_rule_on_every_dtype(List<Ds...>) {
  const Loops* entry = Extended::flat.entries;
  for (const Kernel& kernel : {kernel_from<Signum, Ds>(*entry++)...})
    for_each_sync([&](const SyncInfo& sync) {
      current_case += std::string(" ") + kernel.param_dtype + "/" + kernel.state_dtype;
      step_new_rule(kernel, sync);
    });
}

// Entry `at` of the kernels is that of this rule and dtype, and says what the structs say.
template <class Rule, class D>
void check_kernel(const Kernel& kernel) {
  const auto same = [](std::span<const char* const> a, const auto& b) {
    return std::vector<std::string>(a.begin(), a.end()) ==
           std::vector<std::string>(b.begin(), b.end());
  };
  current_case = kernel.rule;
  CHECK_EQ(kernel.rule, std::string(Rule::name));
  CHECK_EQ(kernel.param_dtype, std::string(dtype_name<typename D::param>));
  CHECK_EQ(kernel.state_dtype, std::string(dtype_name<typename D::state>));
  CHECK_EQ(kernel.param_bytes, sizeof(typename D::param));
  CHECK_EQ(kernel.state_bytes, sizeof(typename D::state));
  CHECK(same(kernel.hyper, Rule::hyper_names));
  CHECK(same(kernel.slots, Rule::slot_names));
  CHECK(same(kernel.scalars, Rule::scalar_names));
  CHECK(kernel.scalars.empty() || kernel.scalars[0] == std::string("step"));
  CHECK(kernel.prepare != nullptr && kernel.loops.racy != nullptr);
  CHECK(kernel.loops.atomic != nullptr && kernel.loops.audit != nullptr);
  CHECK(kernel.loops.finite != nullptr);
  CHECK_EQ(find_kernel(kernel.rule, kernel.param_dtype, kernel.state_dtype), &kernel);
}

template <class... Rs, class... Ds>
void check_kernels(List<Rs...>, List<Ds...> dtypes) {
  CHECK_EQ(kernels().size(), sizeof...(Rs) * sizeof...(Ds));
  const Kernel* at = kernels().data();
  const auto row = [&]<class R, class... Dtype>(List<R>, List<Dtype...>) {
    (check_kernel<R, Dtype>(*at++), ...);
  };
  (row(List<Rs>{}, dtypes), ...);
  current_case.clear();

  std::set<std::tuple<std::string, std::string, std::string>> names;
  for (const Kernel& k : kernels()) names.emplace(k.rule, k.param_dtype, k.state_dtype);
  CHECK_EQ(names.size(), kernels().size());
  CHECK(find_kernel("signum", "float32", "float32") == nullptr);
  CHECK(find_kernel("sgd", "float64", "float32") == nullptr);
}

void check_syncs() {
  std::set<std::string> names;
  for_each_sync([&](const SyncInfo& sync) {
    names.insert(sync.name);
    CHECK_EQ(&sync_info(sync_index(sync.name)), &sync);
    CHECK_LE(1u, sync.copies(1));
    CHECK_THROWS(SegmentError, sync.name, sync_index("none"));  // an error lists what there is
  });
  CHECK_EQ(names.size(), sync_count());
  CHECK_THROWS(SegmentError, "got 'none'", sync_index("none"));
}

}  // namespace
}  // namespace asyncopt

int main() {
  asyncopt::check_kernels(asyncopt::Rules{}, asyncopt::Dtypes{});
  asyncopt::check_syncs();
  asyncopt::step_new_rule_on_every_dtype(asyncopt::Dtypes{});
}
