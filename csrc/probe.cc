// Bindings of the probe, which measures the cost of sharing memory between two cores.
#include "asyncopt/probe/probe.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "plan.h"

namespace asyncopt::python {
namespace {

using Starts = py::array_t<std::int64_t, py::array::c_style>;

py::dict words(const Processors& processors) {
  const WordCosts costs = [&] {
    const py::gil_scoped_release others_may_run;
    return probe_words(processors);
  }();
  py::dict d;
  d["transfer"] = costs.transfer;
  d["lock"] = costs.lock;
  d["sleep"] = costs.sleep;
  d["wake"] = costs.wake;
  d["wake_call"] = costs.wake_call;
  return d;
}

py::dict lines(const Processors& processors, std::size_t lines, std::size_t width,
               const Starts& starts) {
  if (starts.ndim() != 2) throw py::value_error("starts: expected one line of spans for each push");
  const Touches touches{lines,
                        width,
                        static_cast<std::size_t>(starts.shape(1)),
                        {starts.data(), static_cast<std::size_t>(starts.size())}};
  const LineCosts costs = [&] {
    const py::gil_scoped_release others_may_run;
    return probe_lines(processors, touches);
  }();
  py::dict d;
  const auto enter = [&d](const char* name, const LineCost& cost) {
    d[name] = py::make_tuple(cost.own, cost.remote);
  };
  enter("update", costs.update);
  enter("exchange", costs.exchange);
  enter("copy", costs.copy);
  enter("snapshot", costs.snapshot);
  d["check"] = costs.check;
  return d;
}

}  // namespace

void bind_probe(py::module_& m) {
  m.def("probe_words", &words, py::arg("processors"),
        "Seconds that words and locks take between two processors.");
  m.def("probe_lines", &lines, py::kw_only(), py::arg("processors"), py::arg("lines"),
        py::arg("width"), py::arg("starts"),
        "Seconds per cache line of what a push does, own lines and the other processor's.");
}

}  // namespace asyncopt::python
