#include "kernels.cuh"

namespace asyncopt::cuda {

DtypeKernels float32_kernels() { return kernels_of<float, float>(Rules{}); }

}  // namespace asyncopt::cuda
