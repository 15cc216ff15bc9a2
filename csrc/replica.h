// Writes of user code to the parameters of a replica: found by torch's version counters, brought to
// the store, and kept when the parameters are pulled.
//
// A version counter goes up with every write that goes through the parameter, a view of it or
// `detach()`: in-place operations, `torch._foreach_*`, `torch.nn.init`, optimizers, `max_norm`. It
// does not with writes through `.data`, a numpy view or a fused optimizer of torch. `.data = ...`
// shows in the parameter's address and storage.
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
  py::object alias_;      // shares the counter, and stays where it is if the tensor is swapped
  void* impl_ = nullptr;  // torch's object behind it; null: only Python can be asked
};

// Which tensors of a list were written.
class Versions {
 public:
  explicit Versions(const py::list& tensors);
  // Takes them as they are now for unwritten.
  void note();
  // Indices of those written since.
  std::vector<std::size_t> written() const;
  // The first of those at `indices`, if one was.
  std::optional<std::size_t> first_written(const std::vector<std::size_t>& indices) const;

 private:
  std::vector<VersionCounter> counters_;
  std::vector<std::int64_t> noted_;
};

// The parameters of a replica that is pulled into the tensors themselves.
class Replica {
 public:
  // As they are now, they count as pulled.
  void add(const py::object& param, const PullBlock& block, std::size_t element_bytes);
  // Goes on from what another plan has noted of the same parameters, which those of it that are
  // replaced by others leaves written.
  void continue_from(const Replica& other);

  // Finds what was written. `blocks` say where the parameters are now.
  void look(std::span<const PullBlock> blocks);
  // The parameters lie elsewhere now, by no write of the user's.
  void follow(std::span<const PullBlock> blocks);
  // For a push; valid until the next call of another function.
  std::span<const ReplicaWrite> writes(std::span<const Block> blocks);
  // The writes are in the store.
  void pushed();
  // Refreshes the parameters, except for what is written and not pushed, and `state`.
  std::uint64_t pull(const Segment& segment, std::size_t worker, std::span<const PullBlock> blocks,
                     std::span<const PullBlock> state = {});
  // After a push: lets autograd refuse a backward pass through the values of before.
  void mark_changed();
  // After a pull: what was not written counts as unwritten.
  void note();

 private:
  struct Param {
    PyObject* object;
    std::size_t bytes, element_bytes;
    bool is_written = false;  // and not pushed
    std::int64_t found = 0;   // its version then
    // As it was pulled; empty until it is written for the first time, because a copy of every
    // parameter would cost as much as the pull, and again when it has not been written for long.
    std::vector<std::byte> pulled;
    int unwritten = 0;  // pulls since the last write
  };

  // A storage of torch and an offset into it. Sharing a tensor moves the storage's memory and
  // changes neither; `.data = ...` changes one of them. The object keeps the storage: a new one
  // could have the address of one that is gone.
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
  // What a step reads of each, side by side.
  std::vector<VersionCounter> counters_;
  std::vector<std::int64_t> noted_;  // versions after the last pull, without the marks
  std::vector<std::byte*> at_;       // where it was pulled
  std::vector<Place> places_;        // and in which storage
  std::int64_t marks_ = 0;           // each has counted all versions up
  std::vector<ReplicaWrite> writes_;
  std::size_t written_ = 0;  // parameters
  bool has_copies_ = false;
};

void bind_versions(py::module_& m);

}  // namespace asyncopt::python
