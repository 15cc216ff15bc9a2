// The part of the DLPack ABI (version 1, github.com/dmlc/dlpack) that describes a tensor, and the
// exchange table through which torch >= 2.10 fills it in for a tensor object without a Python call.
// It is a stable C ABI: one build of this extension works with every torch version that supports
// it.
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
  // Describes `object` without taking a reference. Returns 0, or -1 with a Python error set.
  int (*describe)(PyObject* object, Tensor* out);
  // Gets torch's current stream. Returns 0, or -1 with a Python error set.
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);
};

inline std::byte* data_of(const Tensor& t) {
  return static_cast<std::byte*>(t.data) + t.byte_offset;
}

inline std::size_t elements(const Tensor& t) {
  std::size_t n = 1;
  for (int d = 0; d < t.ndim; ++d) n *= static_cast<std::size_t>(t.shape[d]);
  return n;
}

// True if both tensors have the same order of elements in memory.
inline bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.ndim != b.ndim || a.strides == nullptr || b.strides == nullptr) return false;
  for (int d = 0; d < a.ndim; ++d)
    if (a.shape[d] != b.shape[d] || (a.shape[d] != 1 && a.strides[d] != b.strides[d]))
      return elements(a) == 0 && elements(b) == 0;
  return true;
}

// True if the tensor is row-major and without gaps.
inline bool row_major(const Tensor& t) {
  std::int64_t expected = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    if (t.strides != nullptr && t.shape[d] != 1 && t.strides[d] != expected)
      return elements(t) == 0;
    expected *= t.shape[d];
  }
  return true;
}

}  // namespace asyncopt::dlpack
