// The lists of rules and dtypes, from which kernels, dispatch, bindings, tests and benchmarks are
// generated. To add a rule or dtype, add a struct and an entry here. The list of syncs is in
// sync/list.cc.
#pragma once

#include "asyncopt/base/list.h"
#include "asyncopt/rules/rules.h"

namespace asyncopt {

using Rules = List<SGD<false>, SGD<true>, Adam<false>, Adam<true>, Adagrad, Adadelta,
                   RMSprop<false, false>, RMSprop<false, true>, RMSprop<true, false>,
                   RMSprop<true, true>, ASGD, RowwiseAdagrad, RowwiseAdam>;

// Storage types of a tensor and of its state slots.
template <class Param, class State>
struct Dtype {
  using param = Param;
  using state = State;
};

using Dtypes = List<Dtype<float, float>, Dtype<double, double>, Dtype<bfloat16, bfloat16>,
                    Dtype<float, bfloat16>>;

}  // namespace asyncopt
