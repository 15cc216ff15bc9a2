#include "kernels.cuh"

namespace asyncopt::cuda {

DtypeKernels float32_bfloat16_kernels() { return kernels_of<float, bfloat16>(Rules{}); }

}  // namespace asyncopt::cuda
