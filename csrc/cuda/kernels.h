// The kernels that nvcc compiled, as the CUDA runtime takes them.
#pragma once

#include "asyncopt/rules/list.h"

namespace asyncopt::cuda {

struct RuleKernels {
  const void *prepare, *hogwild, *atomic;  // nullptr: row-wise rules have none
};

struct DtypeKernels {
  const void* check;
  RuleKernels rules[Rules::size];
};

// One for each entry of Dtypes, each compiled by itself.
DtypeKernels float32_kernels();
DtypeKernels float64_kernels();
DtypeKernels bfloat16_kernels();
DtypeKernels float32_bfloat16_kernels();

}  // namespace asyncopt::cuda
