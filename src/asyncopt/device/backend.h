// The runtime of a device, as steps use it: CUDA, or host memory in tests.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "asyncopt/device/layout.h"

namespace asyncopt::device {

using Stream = void*;  // as the device's runtime calls it

// The outcome of a runtime call. It crosses from one shared library to another, where no
// exception shall go.
struct Status {
  int code = 0;  // 0: well
  const char* call = nullptr;
};

enum class Launch { check, prepare, hogwild, atomic };

// The runtime of one device. Calls leave the current device of the calling thread as it was.
class Backend {
 public:
  // The device's name and its number, for messages.
  virtual const char* name() = 0;
  virtual const char* explain(const Status&) = 0;

  // Memory of the device, and memory of the host that its copies are made from. Also while a graph
  // is captured, of which it is no part.
  virtual Status allocate(std::size_t bytes, void** device, void** host) = 0;
  // Once nothing uses it any more.
  virtual void release(void* device, void* host) = 0;
  // In the order of the stream.
  virtual Status upload(void* device, const void* host, std::size_t bytes, Stream) = 0;
  // Before it returns; also while a graph is captured, of which it is no part.
  virtual Status upload_now(void* device, const void* host, std::size_t bytes) = 0;
  // After all that was launched before.
  virtual Status download(void* host, const void* device, std::size_t bytes) = 0;

  virtual Status is_capturing(Stream, bool* yes) = 0;
  // An event at the end of what the stream has to do now; the one given is used again.
  virtual Status mark(Stream, void** event) = 0;
  virtual Status wait(void* event) = 0;
  virtual void release_event(void* event) = 0;

  // `kernel`: its place in kernels(). `args`: CheckArgs, PrepareArgs or UpdateArgs. `items`: of
  // work, for a block each, or of prepare for a thread each.
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
