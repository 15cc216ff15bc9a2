// Bindings of graph cuts.
#include "asyncopt/models/cuts/trainer.h"

#include "arrays.h"
#include "plan.h"

namespace asyncopt::python {
namespace {

using namespace asyncopt::cuts;

double train_cut(const std::string& sync, std::size_t threads, const Array<std::int32_t>& tails,
                 const Array<std::int32_t>& heads, const Array<float>& weights,
                 const Array<std::int64_t>& begin, const Array<std::int64_t>& order,
                 std::size_t groups, Array<float>& shares, const Array<std::uint8_t>& fixed,
                 std::size_t classes, float rate) {
  const Sync& how = sync_of(std::span<const Sync>(kSyncs), sync);
  expect(heads.size() == tails.size() && weights.size() == tails.size(),
         "heads, weights: expected as many as tails");
  expect(begin.size() > 0 && begin.at(begin.size() - 1) == tails.size(),
         "begin: expected tiles that hold all edges");
  expect(groups > 0, "groups: expected at least one");
  expect(classes > 0 && classes <= kMostClasses, "classes: expected at most CUT_MOST_CLASSES");
  expect(shares.ndim() == 2 && shares.shape(1) == static_cast<py::ssize_t>(stride_of(classes)) &&
             fixed.size() == shares.shape(0),
         "shares, fixed: expected a row of whole lanes and a flag for each vertex");
  const Pass pass{
      {tails.data(), heads.data(), weights.data()}, {in(begin), in(order), groups}, rate};
  const Model model{shares.mutable_data(), fixed.data(), classes};
  std::optional<double> losses;
  {
    const py::gil_scoped_release others_may_run;
    losses = train(how, threads, pass, model, no_signal);
  }
  if (!losses) throw py::error_already_set();
  return *losses;
}

}  // namespace

void bind_cuts(py::module_& m) {
  m.attr("CUT_MOST_CLASSES") = kMostClasses;
  m.def("cut_syncs", [] { return names_of(std::span<const Sync>(kSyncs)); });
  m.def("cut_stride", &stride_of, py::arg("classes"), "Floats in a vertex's row.");
  m.def("train_cut", &train_cut, py::kw_only(), py::arg("sync"), py::arg("threads"),
        py::arg("tails").noconvert(), py::arg("heads").noconvert(), py::arg("weights").noconvert(),
        py::arg("begin").noconvert(), py::arg("order").noconvert(), py::arg("groups"),
        py::arg("shares").noconvert(), py::arg("fixed").noconvert(), py::arg("classes"),
        py::arg("rate"));
}

}  // namespace asyncopt::python
