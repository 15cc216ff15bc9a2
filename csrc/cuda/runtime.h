// Devices by the CUDA runtime.
#pragma once

#include "asyncopt/device/backend.h"

namespace asyncopt::cuda {

// The device with this number. It stays until the process ends. Throws DeviceError if it cannot be
// used: the driver is too old, there is no such device, or the build has no kernels for it.
device::Backend& open(int number);

// Version of the runtime that was compiled in, such as "13.0".
std::string version();

}  // namespace asyncopt::cuda
