// Module asyncopt._cuda: CUDA devices for asyncopt._core. Built only if nvcc was found.
#include <pybind11/pybind11.h>

#include "runtime.h"

namespace py = pybind11;
using namespace asyncopt;

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The CUDA kernels of asyncopt.";
  const py::module_ errors = py::module_::import("asyncopt.errors");
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const device::DeviceError& e) {
      py::set_error(py::module_::import("asyncopt.errors").attr("DeviceError"), e.what());
    }
  });
  m.attr("LAYOUT") = device::kLayout;
  m.attr("VERSION") = cuda::version();
  m.def(
      "open",
      [](int number) {
        return reinterpret_cast<std::uintptr_t>(static_cast<device::Backend*>(&cuda::open(number)));
      },
      py::arg("number"), "The device, as asyncopt._core.Plan takes it.");
}
