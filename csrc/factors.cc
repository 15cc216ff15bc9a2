// Bindings of matrix factorization.
#include "asyncopt/models/factors/trainer.h"

#include <pybind11/stl.h>

#include "arrays.h"
#include "plan.h"

namespace asyncopt::python {
namespace {

using namespace asyncopt::factors;
using asyncopt::factors::Kernel;  // hides the Kernel of the dense rules
using asyncopt::factors::kernels;

const Kernel& kernel_of(const std::string& loss) {
  for (const Kernel& k : kernels())
    if (loss == k.loss) return k;
  throw std::invalid_argument("loss: expected one of factor_losses(), got " + loss);
}

double train_factors(const std::string& loss, const std::string& sync, std::size_t threads,
                     const Array<std::int32_t>& users, const Array<std::int32_t>& items,
                     const Array<float>& values, const Array<std::int64_t>& liked_begin,
                     const Array<std::int32_t>& liked_items, const Array<std::int64_t>& begin,
                     const Array<std::int64_t>& order, std::size_t groups,
                     Array<float>& user_factors, Array<float>& item_factors,
                     const Array<float>& user_rates, const Array<float>& item_rates,
                     float regularization, float mean, std::uint64_t seed) {
  const Kernel& kernel = kernel_of(loss);
  const Sync& how = sync_of(std::span<const Sync>(kSyncs), sync);
  expect(!(kernel.ranks && how.ordered), "sync: expected one that fits a ranking, got 'ordered'");
  expect(items.size() == users.size() && values.size() == users.size(),
         "items, values: expected as many as users");
  expect(begin.size() > 0 && begin.at(begin.size() - 1) == users.size(),
         "begin: expected tiles that hold all entries");
  expect(user_factors.ndim() == 2 && item_factors.ndim() == 2 &&
             user_factors.shape(1) == item_factors.shape(1) &&
             user_rates.size() == user_factors.shape(1) &&
             item_rates.size() == user_factors.shape(1) &&
             user_factors.shape(1) % static_cast<py::ssize_t>(kLanes) == 0,
         "user_factors, item_factors, rates: expected rows of one width, of whole lanes");
  expect(!kernel.ranks || liked_begin.size() == user_factors.shape(0) + 1,
         "liked_begin: expected one entry more than users");
  const Model model{user_factors.mutable_data(), item_factors.mutable_data(),
                    static_cast<std::size_t>(user_factors.shape(1))};
  const Pass pass{
      {users.data(), items.data(), values.data()},
      {liked_begin.data(), liked_items.data(), static_cast<std::size_t>(item_factors.shape(0))},
      {in(begin), in(order), groups},
      {user_rates.data(), item_rates.data(), regularization, mean, seed}};
  std::optional<double> losses;
  {
    const py::gil_scoped_release others_may_run;
    losses = train(kernel, how, threads, pass, model, no_signal);
  }
  if (!losses) throw py::error_already_set();
  return *losses;
}

}  // namespace

void bind_factors(py::module_& m) {
  m.def("factor_losses", [] {
    py::list all;
    for (const Kernel& k : kernels()) all.append(k.loss);
    return py::tuple(all);
  });
  m.def("factor_syncs", [] { return names_of(std::span<const Sync>(kSyncs)); });
  m.def("factor_stride", &stride_of, py::arg("factors"), "Floats in a row of factors.");
  m.def("train_factors", &train_factors, py::kw_only(), py::arg("loss"), py::arg("sync"),
        py::arg("threads"), py::arg("users").noconvert(), py::arg("items").noconvert(),
        py::arg("values").noconvert(), py::arg("liked_begin").noconvert(),
        py::arg("liked_items").noconvert(), py::arg("begin").noconvert(),
        py::arg("order").noconvert(), py::arg("groups"), py::arg("user_factors").noconvert(),
        py::arg("item_factors").noconvert(), py::arg("user_rates").noconvert(),
        py::arg("item_rates").noconvert(), py::arg("regularization"), py::arg("mean"),
        py::arg("seed"));
}

}  // namespace asyncopt::python
