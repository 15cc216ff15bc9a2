// Devices of the CUDA runtime.
#pragma once

#include "asyncopt/device/backend.h"

namespace asyncopt::cuda {

// Opens the device with this number, which stays open until the process ends. Throws DeviceError if
// it cannot be used: the driver is too old, there is no such device, or the build has no kernels
// for it.
device::Backend& open(int number);

// Version of the CUDA runtime of this build, such as "13.0".
std::string version();

}  // namespace asyncopt::cuda
