// The kernels of one dtype: asyncopt/device/kernels.h compiled by nvcc.
#pragma once

#include "asyncopt/device/kernels.h"
#include "kernels.h"

namespace asyncopt::cuda {

__device__ inline device::Place here() { return {blockIdx.x, gridDim.x, threadIdx.x}; }

template <class T>
__global__ void __launch_bounds__(device::kThreads)
    check(const __grid_constant__ device::CheckArgs args) {
  device::check<T>(args, here());
}
template <class Rule, class C>
__global__ void __launch_bounds__(device::kPrepareThreads)
    prepare(const __grid_constant__ device::PrepareArgs args) {
  device::prepare<Rule, C>(args, here());
}
template <class Rule, class T, class S>
__global__ void __launch_bounds__(device::kThreads, 2)
    hogwild(const __grid_constant__ device::UpdateArgs args) {
  device::update<Rule, T, S, false>(args, here());
}
template <class Rule, class T, class S>
__global__ void __launch_bounds__(device::kThreads, 2)
    atomic(const __grid_constant__ device::UpdateArgs args) {
  device::update<Rule, T, S, true>(args, here());
}

template <class Args>
const void* symbol(void (*kernel)(Args)) {
  return reinterpret_cast<const void*>(kernel);
}

template <class Rule, class T, class S>
RuleKernels rule_kernels() {
  if constexpr (row_slots_of<Rule> > 0)
    return {};
  else
    return {symbol(&prepare<Rule, arithmetic_t<T>>), symbol(&hogwild<Rule, T, S>),
            symbol(&atomic<Rule, T, S>)};
}

template <class T, class S, class... Rs>
DtypeKernels kernels_of(List<Rs...>) {
  return {symbol(&check<T>), {rule_kernels<Rs, T, S>()...}};
}

}  // namespace asyncopt::cuda
