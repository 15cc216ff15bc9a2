#include "kernels.cuh"

namespace asyncopt::cuda {

DtypeKernels float64_kernels() { return kernels_of<double, double>(Rules{}); }

}  // namespace asyncopt::cuda
