// Interface to the runtime of a device: CUDA, or host memory in tests.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "asyncopt/device/layout.h"

namespace asyncopt::device {

using Stream = void*;  // the runtime's handle of a stream

// The outcome of a runtime call. Not an exception, because it crosses the boundary between shared
// libraries.
struct Status {
  int code = 0;  // 0: success
  const char* call = nullptr;
};

enum class Launch { check, prepare, hogwild, atomic };

// The runtime of one device. Calls do not change the calling thread's current device.
class Backend {
 public:
  // The device's name and its number, for messages.
  virtual const char* name() = 0;
  virtual const char* explain(const Status&) = 0;

  // Allocates device memory and host memory to upload from. Allowed during the capture of a graph,
  // and not captured.
  virtual Status allocate(std::size_t bytes, void** device, void** host) = 0;
  // Frees memory after its last use has ended.
  virtual void release(void* device, void* host) = 0;
  // Copies to the device, in stream order.
  virtual Status upload(void* device, const void* host, std::size_t bytes, Stream) = 0;
  // Copies to the device before it returns. Allowed during the capture of a graph, and not
  // captured.
  virtual Status upload_now(void* device, const void* host, std::size_t bytes) = 0;
  // Copies to the host, after all earlier launches.
  virtual Status download(void* host, const void* device, std::size_t bytes) = 0;

  virtual Status is_capturing(Stream, bool* yes) = 0;
  // Records an event after the stream's current work; creates it if it is null.
  virtual Status mark(Stream, void** event) = 0;
  virtual Status wait(void* event) = 0;
  virtual void release_event(void* event) = 0;

  // `kernel`: index in kernels(). `args`: CheckArgs, PrepareArgs or UpdateArgs. `items`: number of
  // work items, one per block, or one per thread for prepare.
  virtual Status launch(Launch, std::size_t kernel, const void* args, std::size_t items,
                        Stream) = 0;

 protected:
  ~Backend() = default;
};

class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws DeviceError, which names the device and the call.
inline void check(Backend& backend, const Status& status) {
  if (status.code != 0)
    throw DeviceError(std::string(backend.name()) + ": " + status.call + ": " +
                      backend.explain(status));
}

}  // namespace asyncopt::device
