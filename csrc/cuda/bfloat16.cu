#include "kernels.cuh"

namespace asyncopt::cuda {

DtypeKernels bfloat16_kernels() { return kernels_of<bfloat16, bfloat16>(Rules{}); }

}  // namespace asyncopt::cuda
