// Bindings of the svmlight reader.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "asyncopt/io/svmlight/rows.h"
#include "plan.h"

namespace asyncopt::python {
namespace {

using namespace asyncopt::svmlight;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class Value>
Rows<Value> read(const Source& source, const Range& range) {
  try {
    const py::gil_scoped_release others_may_run;
    return Rows<Value>(source, range);
  } catch (const std::system_error& e) {
    errno = e.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, source.name.c_str());
  } catch (const std::runtime_error& e) {
    PyErr_SetString(PyExc_OSError, (source.name + ": " + e.what()).c_str());
  }
  throw py::error_already_set();
}

template <class T>
T* begin_of(Array<T>& array, std::size_t size, const char* name) {
  if (static_cast<std::size_t>(array.size()) != size)
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(size) +
                                " elements, got " + std::to_string(array.size()));
  return array.mutable_data();
}

template <class Value>
void bind_rows(py::module_& m, const char* name) {
  py::class_<Rows<Value>>(m, name)
      .def_static(
          "of_file",
          [](const std::string& path, int file, std::size_t size, std::size_t begin,
             std::size_t end, bool queries, std::int32_t first, std::size_t threads) {
            return read<Value>(file_source(path, file, size),
                               {begin, end, queries, first, threads});
          },
          py::kw_only(), py::arg("path"), py::arg("file"), py::arg("size"), py::arg("begin"),
          py::arg("end"), py::arg("queries"), py::arg("first"), py::arg("threads"))
      .def_static(
          "of_text",
          [](const std::string& path, std::string_view text, std::size_t lines_before, bool queries,
             std::int32_t first, std::size_t threads) {
            return read<Value>(memory_source(path, text, lines_before),
                               {0, text.size(), queries, first, threads});
          },
          py::kw_only(), py::arg("path"), py::arg("text"), py::arg("lines_before"),
          py::arg("queries"), py::arg("first"), py::arg("threads"))
      .def_property_readonly("rows", &Rows<Value>::rows)
      .def_property_readonly("entries", &Rows<Value>::entries)
      .def_property_readonly("lines", &Rows<Value>::lines)
      .def_property_readonly("lowest", &Rows<Value>::lowest)
      .def_property_readonly("highest", &Rows<Value>::highest)
      .def(
          "move_to",
          [](Rows<Value>& rows, Array<std::int64_t>& ends, std::int64_t first,
             Array<std::int32_t>& columns, std::int32_t base, Array<Value>& values,
             Array<double>& labels, std::optional<Array<std::int64_t>>& queries,
             std::size_t threads) {
            const std::size_t n = rows.rows(), entries = rows.entries();
            const CsrArrays<Value> to{begin_of(ends, n, "ends"),
                                      first,
                                      begin_of(columns, entries, "columns"),
                                      base,
                                      begin_of(values, entries, "values"),
                                      begin_of(labels, n, "labels"),
                                      queries ? begin_of(*queries, n, "queries") : nullptr};
            const py::gil_scoped_release others_may_run;
            rows.move_to(to, threads);
          },
          py::kw_only(), py::arg("ends").noconvert(), py::arg("first"),
          py::arg("columns").noconvert(), py::arg("base"), py::arg("values").noconvert(),
          py::arg("labels").noconvert(), py::arg("queries").noconvert(), py::arg("threads"));
}

}  // namespace

void bind_svmlight(py::module_& m) {
  bind_rows<float>(m, "SvmlightFloat32");
  bind_rows<double>(m, "SvmlightFloat64");
}

}  // namespace asyncopt::python
