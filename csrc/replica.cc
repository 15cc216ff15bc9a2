#include "replica.h"

#include <dlfcn.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace asyncopt::python {
namespace {

// `at::TensorBase::_version() const`. The object consists of one pointer to torch's TensorImpl. A
// call takes 3 ns; the attribute `_version` takes 40 ns, a sixth of the step of a small tensor.
using ReadVersion = std::int64_t (*)(const void* tensor);

std::int64_t version_of(const py::object& tensor) {
  return tensor.attr("_version").cast<std::int64_t>();
}

void increment_versions(const py::object& tensors) {
  static PyObject* const increment =
      py::object(py::module_::import("torch").attr("_C").attr("_increment_version"))
          .release()
          .ptr();
  const auto done =
      py::reinterpret_steal<py::object>(PyObject_CallOneArg(increment, tensors.ptr()));
  if (!done) throw py::error_already_set();
}

// Finds `_version`. Null if this torch does not export it, or its count differs from the attribute.
ReadVersion find_reader() {
  void* const library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  const auto read = reinterpret_cast<ReadVersion>(dlsym(library, "_ZNK2at10TensorBase8_versionEv"));
  dlclose(library);  // torch keeps it loaded
  if (read == nullptr) return nullptr;
  const py::object torch = py::module_::import("torch");
  const py::object counted = torch.attr("inference_mode")(false);
  counted.attr("__enter__")();
  const py::object probe = torch.attr("empty")(1, py::arg("device") = "cpu");
  bool agrees = true;
  for (int i = 0; i < 3; ++i) {
    void* const impl = reinterpret_cast<void*>(probe.attr("_cdata").cast<std::uintptr_t>());
    agrees = agrees && read(&impl) == version_of(probe);
    increment_versions(py::make_tuple(probe));
  }
  counted.attr("__exit__")(py::none(), py::none(), py::none());
  return agrees ? read : nullptr;
}

// Set before the first counter is made.
ReadVersion read_version = nullptr;

// Number of pulls without a write after which the copy of a parameter is dropped.
constexpr int kUnwritten = 100;

}  // namespace

VersionCounter::VersionCounter(const py::object& tensor) {
  if (tensor.attr("is_inference")().cast<bool>()) return;  // inference tensors have no counter
  static const bool is_found = (read_version = find_reader()) != nullptr;
  alias_ = tensor.attr("detach")();
  if (is_found) impl_ = reinterpret_cast<void*>(alias_.attr("_cdata").cast<std::uintptr_t>());
}

std::int64_t VersionCounter::read() const {
  if (impl_ != nullptr) return read_version(&impl_);
  return alias_ ? version_of(alias_) : 0;
}

Versions::Versions(const py::list& tensors) {
  for (const py::handle tensor : tensors)
    counters_.emplace_back(py::reinterpret_borrow<py::object>(tensor));
  note();
}

void Versions::note() {
  noted_.clear();
  for (const VersionCounter& counter : counters_) noted_.push_back(counter.read());
}

std::vector<std::size_t> Versions::written() const {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < counters_.size(); ++i)
    if (counters_[i].read() != noted_[i]) found.push_back(i);
  return found;
}

std::optional<std::size_t> Versions::first_written(const std::vector<std::size_t>& indices) const {
  for (const std::size_t i : indices)
    if (counters_.at(i).read() != noted_[i]) return i;
  return std::nullopt;
}

void Replica::add(const py::object& param, const PullBlock& block, std::size_t element_bytes) {
  objects_.append(param);
  params_.push_back(
      {.object = param.ptr(), .bytes = block.bytes, .element_bytes = element_bytes, .pulled = {}});
  counters_.emplace_back(param);
  noted_.push_back(0);
  noted_.back() = version(params_.size() - 1);
  at_.push_back(static_cast<std::byte*>(block.replica));
  places_.push_back(place_of(param));
}

Replica::Place Replica::place_of(const py::handle& param) {
  py::object storage = param.attr("untyped_storage")();
  const auto address = storage.attr("_cdata").cast<std::uintptr_t>();
  return {std::move(storage), address, param.attr("storage_offset")().cast<std::int64_t>()};
}

// The version without the increments of mark_changed. A parameter without a counter never counts as
// written.
std::int64_t Replica::version(std::size_t i) const {
  return counters_[i].counts() ? counters_[i].read() - marks_ : noted_[i];
}

void Replica::continue_from(const Replica& other) {
  if (other.params_.size() != params_.size()) return;
  for (std::size_t i = 0; i < params_.size(); ++i) {
    Param& mine = params_[i];
    const Param& before = other.params_[i];
    if (mine.bytes != before.bytes) continue;
    const bool is_same = mine.object == before.object;
    noted_[i] = is_same ? other.noted_[i] + other.marks_ - marks_ : noted_[i];
    at_[i] = is_same ? other.at_[i] : nullptr;
    places_[i] = is_same ? other.places_[i] : Place();
    mine.is_written = before.is_written;
    mine.pulled = before.pulled;
    written_ += mine.is_written ? 1 : 0;
  }
  has_copies_ = other.has_copies_;
}

void Replica::look(std::span<const PullBlock> blocks) {
  for (std::size_t i = 0; i < params_.size(); ++i) {
    if (version(i) == noted_[i] && blocks[i].replica == at_[i]) continue;
    Param& param = params_[i];
    if (blocks[i].replica != at_[i]) {
      at_[i] = static_cast<std::byte*>(blocks[i].replica);
      const Place before = std::exchange(places_[i], place_of(param.object));
      if (places_[i].is(before) && version(i) == noted_[i]) continue;  // moved by sharing: no write
      // The tensor may have been swapped, together with its counter.
      counters_[i] = VersionCounter(py::reinterpret_borrow<py::object>(param.object));
    }
    param.found = version(i);
    written_ += param.is_written ? 0 : 1;
    param.is_written = true;
  }
}

void Replica::follow(std::span<const PullBlock> blocks) {
  for (std::size_t i = 0; i < params_.size(); ++i) {
    at_[i] = static_cast<std::byte*>(blocks[i].replica);
    places_[i] = place_of(params_[i].object);
  }
}

std::span<const ReplicaWrite> Replica::writes(std::span<const Block> blocks) {
  writes_.clear();
  for (std::size_t i = 0; written_ != 0 && i < params_.size(); ++i)
    if (params_[i].is_written)
      writes_.push_back(
          {&blocks[i], at_[i], params_[i].pulled.empty() ? nullptr : params_[i].pulled.data()});
  return writes_;
}

void Replica::pushed() {
  for (std::size_t i = 0; written_ != 0 && i < params_.size(); ++i) {
    Param& param = params_[i];
    if (!param.is_written) continue;
    copy(i);  // if no pull follows, the next writes are found by comparison with this copy
    noted_[i] = param.found;
    param.is_written = false;
    param.unwritten = 0;
    --written_;
  }
}

void Replica::copy(std::size_t i) {
  params_[i].pulled.assign(at_[i], at_[i] + params_[i].bytes);
  has_copies_ = true;
}

std::uint64_t Replica::pull(const Segment& segment, std::size_t worker,
                            std::span<const PullBlock> blocks, std::span<const PullBlock> state) {
  if (written_ == 0 && !has_copies_ && state.empty())
    return asyncopt::pull(segment, worker, blocks);
  std::vector<PullBlock> all(blocks.begin(), blocks.end());
  all.insert(all.end(), state.begin(), state.end());
  std::vector<std::vector<std::byte>> news(params_.size());
  for (std::size_t i = 0; i < params_.size(); ++i) {
    if (!params_[i].is_written) continue;
    news[i].resize(params_[i].bytes);
    all[i].replica = news[i].data();
  }
  const std::uint64_t version = asyncopt::pull(segment, worker, all);
  has_copies_ = false;
  for (std::size_t i = 0; i < params_.size(); ++i) {
    Param& param = params_[i];
    if (param.is_written) {
      merge(i, news[i]);
      param.pulled = std::move(news[i]);
      has_copies_ = true;
    } else if (!param.pulled.empty() && ++param.unwritten > kUnwritten) {
      param.pulled = {};
    } else if (!param.pulled.empty()) {
      copy(i);
    }
  }
  return version;
}

// Overwrites elements that user code has not written with the store's values.
void Replica::merge(std::size_t i, std::span<const std::byte> news) const {
  const Param& param = params_[i];
  if (param.pulled.empty()) return;  // all elements count as written
  for (std::size_t at = 0; at < param.bytes; at += param.element_bytes)
    if (std::memcmp(at_[i] + at, param.pulled.data() + at, param.element_bytes) == 0)
      std::memcpy(at_[i] + at, news.data() + at, param.element_bytes);
}

void Replica::mark_changed() {
  increment_versions(objects_);
  ++marks_;
}

void Replica::note() {
  for (std::size_t i = 0; i < params_.size(); ++i)
    if (!params_[i].is_written) noted_[i] = version(i);
}

void bind_versions(py::module_& m) {
  py::class_<Versions>(m, "Versions", "Version counters of tensors, as torch keeps them.")
      .def(py::init<const py::list&>(), py::arg("tensors"))
      .def("note", &Versions::note, "Takes the tensors as they are now for unwritten.")
      .def("written", &Versions::written, "Indices of the tensors that were written since.")
      .def("first_written", &Versions::first_written, py::arg("indices"),
           "The first of these that was written since, or None.");
}

}  // namespace asyncopt::python
