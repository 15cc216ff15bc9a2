// The device in host memory as a library, for the Python tests of what is around a device's
// kernels.
#include "host_device.h"

extern "C" __attribute__((visibility("default"))) void* host_device() {
  static asyncopt::test::HostDevice device;
  return static_cast<asyncopt::device::Backend*>(&device);
}
