#include "runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "kernels.h"

namespace asyncopt::cuda {
namespace {

using device::Launch;
using device::Status;
using device::Stream;

#define ASYNCOPT_TRY(call, ...)                                            \
  do {                                                                     \
    if (const cudaError_t error = call(__VA_ARGS__); error != cudaSuccess) \
      return Status{static_cast<int>(error), #call};                       \
  } while (false)

std::string dotted(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The text of an error, with its remedy.
std::string explain(cudaError_t error) {
  std::string text = std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
  int driver = 0;
  if (error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess)
    text += driver == 0
                ? "; no NVIDIA driver was found: install one"
                : "; the driver is of CUDA " + dotted(driver) + ", this build of " + version() +
                      ": update the driver, or reinstall with a CUDA toolkit that is not "
                      "newer than it";
  if (error == cudaErrorMemoryAllocation)
    text += "; torch may keep memory that no tensor uses: call torch.cuda.empty_cache()";
  if (error == cudaErrorNoKernelImageForDevice)
    text += "; reinstall with CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=native";
  return text;
}

// Sets the calling thread's current device and restores the previous one.
class Guard {
 public:
  explicit Guard(int number) : number_(number) { status_ = enter(); }
  ~Guard() {
    if (before_ != number_) cudaSetDevice(before_);
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  const Status& status() const { return status_; }

 private:
  Status enter() {
    ASYNCOPT_TRY(cudaGetDevice, &before_);
    if (before_ != number_) ASYNCOPT_TRY(cudaSetDevice, number_);
    return {};
  }
  int number_, before_ = number_;
  Status status_;
};

// Allows calls of this thread that are not captured, while some stream captures a graph.
class OutsideCaptures {
 public:
  OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  OutsideCaptures(const OutsideCaptures&) = delete;
  OutsideCaptures& operator=(const OutsideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

const DtypeKernels& dtype_kernels(std::size_t dtype) {
  // In the order of Dtypes.
  static const std::array<DtypeKernels, Dtypes::size> all{
      float32_kernels(), float64_kernels(), bfloat16_kernels(), float32_bfloat16_kernels()};
  return all.at(dtype);
}

const void* symbol_of(Launch launch, std::size_t kernel) {
  const DtypeKernels& dtype = dtype_kernels(kernel % Dtypes::size);
  const RuleKernels& rule = dtype.rules[kernel / Dtypes::size];
  switch (launch) {
    case Launch::check:
      return dtype.check;
    case Launch::prepare:
      return rule.prepare;
    case Launch::hogwild:
      return rule.hogwild;
    case Launch::atomic:
      return rule.atomic;
  }
  return nullptr;
}

class Device final : public device::Backend {
 public:
  explicit Device(int number) : number_(number), name_("cuda:" + std::to_string(number)) {}

  Status start() {
    int count = 0;
    ASYNCOPT_TRY(cudaGetDeviceCount, &count);
    const OutsideCaptures outside;
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    ASYNCOPT_TRY(cudaDeviceGetAttribute, &processors_, cudaDevAttrMultiProcessorCount, number_);
    cudaFuncAttributes attributes;
    ASYNCOPT_TRY(cudaFuncGetAttributes, &attributes, symbol_of(Launch::check, 0));
    ASYNCOPT_TRY(cudaStreamCreateWithFlags, &own_, cudaStreamNonBlocking);
    return {};
  }

  const char* name() override { return name_.c_str(); }
  const char* explain(const Status& status) override {
    thread_local std::string text;
    text = cuda::explain(static_cast<cudaError_t>(status.code));
    return text.c_str();
  }

  Status allocate(std::size_t bytes, void** device, void** host) override {
    const OutsideCaptures outside;
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    ASYNCOPT_TRY(cudaMalloc, device, bytes);
    if (const cudaError_t error = cudaMallocHost(host, bytes); error != cudaSuccess) {
      cudaFree(*device);
      *device = nullptr;
      return {static_cast<int>(error), "cudaMallocHost"};
    }
    return {};
  }
  // Ignores errors: at the end of the process the driver may have been shut down before.
  void release(void* device, void* host) override {
    const OutsideCaptures outside;
    const Guard guard(number_);
    if (device != nullptr) cudaFree(device);  // waits for work that uses it
    if (host != nullptr) cudaFreeHost(host);
  }
  Status upload(void* device, const void* host, std::size_t bytes, Stream stream) override {
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    ASYNCOPT_TRY(cudaMemcpyAsync, device, host, bytes, cudaMemcpyHostToDevice,
                 static_cast<cudaStream_t>(stream));
    return {};
  }
  Status upload_now(void* device, const void* host, std::size_t bytes) override {
    const OutsideCaptures outside;
    if (const Status status = upload(device, host, bytes, own_); status.code != 0) return status;
    ASYNCOPT_TRY(cudaStreamSynchronize, own_);
    return {};
  }
  Status download(void* host, const void* device, std::size_t bytes) override {
    const OutsideCaptures outside;
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    ASYNCOPT_TRY(cudaDeviceSynchronize);
    ASYNCOPT_TRY(cudaMemcpyAsync, host, device, bytes, cudaMemcpyDeviceToHost, own_);
    ASYNCOPT_TRY(cudaStreamSynchronize, own_);
    return {};
  }

  Status is_capturing(Stream stream, bool* yes) override {
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    ASYNCOPT_TRY(cudaStreamIsCapturing, static_cast<cudaStream_t>(stream), &capture);
    *yes = capture != cudaStreamCaptureStatusNone;
    return {};
  }
  Status mark(Stream stream, void** event) override {
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    if (*event == nullptr) {
      cudaEvent_t made = nullptr;
      ASYNCOPT_TRY(cudaEventCreateWithFlags, &made, cudaEventDisableTiming);
      *event = made;
    }
    ASYNCOPT_TRY(cudaEventRecord, static_cast<cudaEvent_t>(*event),
                 static_cast<cudaStream_t>(stream));
    return {};
  }
  Status wait(void* event) override {
    const OutsideCaptures outside;
    ASYNCOPT_TRY(cudaEventSynchronize, static_cast<cudaEvent_t>(event));
    return {};
  }
  void release_event(void* event) override { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

  Status launch(Launch launch, std::size_t kernel, const void* args, std::size_t items,
                Stream stream) override {
    const Guard guard(number_);
    if (guard.status().code != 0) return guard.status();
    const void* const symbol = symbol_of(launch, kernel);
    if (symbol == nullptr) return {static_cast<int>(cudaErrorInvalidDeviceFunction), "launch"};
    unsigned threads = device::kThreads, blocks = 0;
    if (launch == Launch::prepare) {
      threads = device::kPrepareThreads;
      blocks = static_cast<unsigned>((items + threads - 1) / threads);
    } else {
      unsigned resident = 0;
      if (const Status status = fill(symbol, &resident); status.code != 0) return status;
      blocks = static_cast<unsigned>(std::min<std::size_t>(items, resident));
    }
    void* every[] = {const_cast<void*>(args)};
    ASYNCOPT_TRY(cudaLaunchKernel, symbol, dim3(blocks), dim3(threads), every, 0,
                 static_cast<cudaStream_t>(stream));
    return {};
  }

 private:
  // Gets the number of blocks of a kernel that the device runs concurrently.
  Status fill(const void* symbol, unsigned* blocks) {
    const std::lock_guard lock(filling_);
    unsigned& known = resident_[symbol];
    if (known == 0) {
      const OutsideCaptures outside;
      int each = 0;
      ASYNCOPT_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor, &each, symbol,
                   static_cast<int>(device::kThreads), 0);
      known = static_cast<unsigned>(std::max(each, 1) * processors_);
    }
    *blocks = known;
    return {};
  }

  int number_;
  std::string name_;
  int processors_ = 0;
  cudaStream_t own_ = nullptr;  // for copies that belong to none of the user's streams
  std::mutex filling_;
  std::map<const void*, unsigned> resident_;
};

}  // namespace

device::Backend& open(int number) {
  static std::mutex opening;
  static auto& devices = *new std::map<int, Device*>;  // never destroyed: the driver may be gone
  const std::lock_guard lock(opening);
  Device*& device = devices[number];
  if (device == nullptr) {
    auto made = std::make_unique<Device>(number);
    device::check(*made, made->start());
    device = made.release();
  }
  return *device;
}

std::string version() { return dotted(CUDART_VERSION); }

}  // namespace asyncopt::cuda
