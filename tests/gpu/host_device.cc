// The device in host memory as a library, for the Python tests of the code around a device's
// kernels.
#include "host_device.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

static asyncopt::test::HostDevice& the_device() {
  static asyncopt::test::HostDevice device;
  return device;
}

EXPORTED void* host_device() { return static_cast<asyncopt::device::Backend*>(&the_device()); }
EXPORTED void hold(bool held) { the_device().held = held; }
EXPORTED std::size_t waiting() { return the_device().waiting; }
EXPORTED std::size_t overdue() { return the_device().overdue; }
