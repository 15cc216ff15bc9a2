// The part of the DLPack ABI (version 1, github.com/dmlc/dlpack) that describes a tensor, and the
// exchange table through which torch >= 2.10 fills it in for a tensor object without a Python call.
// It is a stable C ABI: one build of this extension serves every torch version that speaks it.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>

namespace asyncopt::dlpack {

inline constexpr std::int32_t kCpu = 1;
inline constexpr std::uint8_t kFloat = 2;
inline constexpr std::uint8_t kBfloat = 4;

struct Tensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  struct {
    std::uint8_t code, bits;
    std::uint16_t lanes;
  } dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major
  std::uint64_t byte_offset;
};
static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, shape) == 24);

struct ExchangeApi {
  struct {
    std::uint32_t major, minor;
  } version;
  void* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  // Describes `object` without taking a reference; 0, or -1 with a Python error set.
  int (*describe)(PyObject* object, Tensor* out);
  // The stream that torch works on: 0, or -1 with a Python error set.
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);
};

}  // namespace asyncopt::dlpack
