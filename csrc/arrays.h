// Array arguments for the bindings of models on sparse data.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

namespace asyncopt::python {

namespace py = pybind11;

// An array that is read or written in place, never converted or copied.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
std::span<const T> in(const Array<T>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

template <class T>
std::span<T> out(Array<T>& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

inline void expect(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

template <class Sync>
const Sync& sync_of(std::span<const Sync> syncs, const std::string& name) {
  std::string known;
  for (const Sync& s : syncs) {
    if (name == s.name) return s;
    known += known.empty() ? s.name : std::string(", ") + s.name;
  }
  throw std::invalid_argument("sync: expected one of " + known + "; got '" + name + "'");
}

template <class Sync>
py::tuple names_of(std::span<const Sync> syncs) {
  py::list names;
  for (const Sync& s : syncs) names.append(s.name);
  return py::tuple(names);
}

// `go_on` of passes without the GIL: false once a signal handler has raised an exception.
inline bool no_signal() {
  const py::gil_scoped_acquire mine;
  return PyErr_CheckSignals() == 0;
}

}  // namespace asyncopt::python
