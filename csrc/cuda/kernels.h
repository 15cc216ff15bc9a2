// Table of the kernels compiled by nvcc, for launches by the CUDA runtime.
#pragma once

#include "asyncopt/rules/list.h"

namespace asyncopt::cuda {

struct RuleKernels {
  const void *prepare, *hogwild, *atomic;  // nullptr for row-wise rules
};

struct DtypeKernels {
  const void* check;
  RuleKernels rules[Rules::size];
};

// One function per entry of Dtypes, each in its own translation unit.
DtypeKernels float32_kernels();
DtypeKernels float64_kernels();
DtypeKernels bfloat16_kernels();
DtypeKernels float32_bfloat16_kernels();

}  // namespace asyncopt::cuda
