// The lists that drive everything: kernels, dispatch, bindings, tests and benchmarks are generated
// from them. A new rule or dtype is a struct and an entry here; a new sync is
// a header in sync/ and an entry of `Syncs` in push.cc.
#pragma once

#include "asyncopt/rules/rules.h"

namespace asyncopt {

template <class... Ts>
struct List {
  static constexpr std::size_t size = sizeof...(Ts);
};

using Rules = List<SGD<false>, SGD<true>, Adam<false>, Adam<true>, Adagrad, Adadelta,
                   RMSprop<false, false>, RMSprop<false, true>, RMSprop<true, false>,
                   RMSprop<true, true>, ASGD, RowwiseAdagrad, RowwiseAdam>;

// How a tensor and its state slots are stored.
template <class Param, class State>
struct Dtype {
  using param = Param;
  using state = State;
};

using Dtypes = List<Dtype<float, float>, Dtype<double, double>, Dtype<bfloat16, bfloat16>,
                    Dtype<float, bfloat16>>;

}  // namespace asyncopt
