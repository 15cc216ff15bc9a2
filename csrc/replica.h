// Tracking of user code's writes to the parameters of a replica: they are detected by torch's
// version counters, pushed to the store, and kept when the parameters are pulled.
//
// A version counter is incremented by every write through the parameter, a view of it or
// `detach()`: in-place operations, `torch._foreach_*`, `torch.nn.init`, optimizers, `max_norm`. It
// is not incremented by writes through `.data`, a numpy view or a fused optimizer of torch.
// `.data = ...` is detected by the parameter's address and storage.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "asyncopt/push/push.h"

namespace asyncopt::python {

namespace py = pybind11;

// A tensor's version counter.
class VersionCounter {
 public:
  explicit VersionCounter(const py::object& tensor);
  bool counts() const { return static_cast<bool>(alias_); }
  std::int64_t read() const;

 private:
  py::object alias_;      // shares the counter, and keeps its address if the tensor is swapped
  void* impl_ = nullptr;  // torch's TensorImpl of the alias; null: the counter is read by Python
};

// Detects which tensors of a list were written.
class Versions {
 public:
  explicit Versions(const py::list& tensors);
  // Marks all tensors as unwritten.
  void note();
  // Indices of those written since.
  std::vector<std::size_t> written() const;
  // The first of `indices` that was written since, if any.
  std::optional<std::size_t> first_written(const std::vector<std::size_t>& indices) const;

 private:
  std::vector<VersionCounter> counters_;
  std::vector<std::int64_t> noted_;
};

// The parameters of a replica that is pulled into the tensors themselves.
class Replica {
 public:
  // Adds a parameter. Its current values count as pulled.
  void add(const py::object& param, const PullBlock& block, std::size_t element_bytes);
  // Takes over another plan's record of the same parameters. Parameters that were replaced by other
  // objects are detected as written.
  void continue_from(const Replica& other);

  // Detects writes. `blocks`: the parameters' current addresses.
  void look(std::span<const PullBlock> blocks);
  // Adopts new addresses of the parameters that do not count as writes.
  void follow(std::span<const PullBlock> blocks);
  // The writes to push; valid until the next call of another function.
  std::span<const ReplicaWrite> writes(std::span<const Block> blocks);
  // Records that the writes have been pushed to the store.
  void pushed();
  // Refreshes the parameters, except for elements written and not pushed, and `state`.
  std::uint64_t pull(const Segment& segment, std::size_t worker, std::span<const PullBlock> blocks,
                     std::span<const PullBlock> state = {});
  // After a push: increments the version counters, so that autograd rejects a backward pass through
  // the old values.
  void mark_changed();
  // After a pull: notes the versions of the parameters without pending writes.
  void note();

 private:
  struct Param {
    PyObject* object;
    std::size_t bytes, element_bytes;
    bool is_written = false;  // and not pushed
    std::int64_t found = 0;   // its version when the write was detected
    // The pulled values. Empty until the first write, because a copy of every parameter would cost
    // as much as the pull, and again after kUnwritten pulls without a write.
    std::vector<std::byte> pulled;
    int unwritten = 0;  // pulls since the last write
  };

  // A torch storage and an offset into it. Sharing a tensor moves the storage's memory and changes
  // neither; `.data = ...` changes one of them. `kept` holds a reference to the storage, so that no
  // new storage can get the same address.
  struct Place {
    py::object kept;
    std::uintptr_t storage = 0;
    std::int64_t offset = 0;
    bool is(const Place& other) const { return storage == other.storage && offset == other.offset; }
  };
  static Place place_of(const py::handle& param);

  std::int64_t version(std::size_t i) const;
  void merge(std::size_t i, std::span<const std::byte> news) const;
  void copy(std::size_t i);

  py::list objects_;
  std::vector<Param> params_;
  // Data that a step reads per parameter, in contiguous arrays.
  std::vector<VersionCounter> counters_;
  std::vector<std::int64_t> noted_;  // versions after the last pull, without the marks
  std::vector<std::byte*> at_;       // address at the last pull
  std::vector<Place> places_;        // storage at the last pull
  std::int64_t marks_ = 0;           // calls of mark_changed; each increments all versions
  std::vector<ReplicaWrite> writes_;
  std::size_t written_ = 0;  // number of parameters with pending writes
  bool has_copies_ = false;
};

void bind_versions(py::module_& m);

}  // namespace asyncopt::python
