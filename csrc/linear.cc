// Bindings of linear models over sparse rows.
#include "asyncopt/models/linear/conflicts.h"
#include "asyncopt/models/linear/custom.h"
#include "asyncopt/models/linear/examples.h"
#include "asyncopt/models/linear/trainer.h"

#include <pybind11/stl.h>

#include <memory>
#include <sstream>

#include "arrays.h"
#include "plan.h"

namespace asyncopt::python {
namespace {

using namespace asyncopt::linear;
using asyncopt::linear::Kernel;  // hides the Kernel of the dense rules
using asyncopt::linear::kernels;

template <class Index, class Value>
Csr<Index, Value> csr(const Array<std::int64_t>& begin, const Array<Index>& columns,
                      const Array<Value>& values, float intercept) {
  expect(begin.size() > 0, "begin: expected one entry more than rows, got none");
  return {in(begin), in(columns), in(values), intercept};
}

template <class Index, class Value>
void bind_rows(py::module_& m) {
  m.def(
      "count_columns",
      [](const Array<std::int64_t>& begin, const Array<Index>& columns, const Array<Value>& values,
         float intercept, Array<std::int64_t>& counts, Array<double>& masses) {
        expect(counts.size() == masses.size(), "masses: expected as many as counts");
        const auto from = csr(begin, columns, values, intercept);
        const ColumnSums to{out(counts), out(masses)};
        const py::gil_scoped_release others_may_run;
        count_columns(from, to);
      },
      py::arg("begin").noconvert(), py::arg("columns").noconvert(), py::arg("values").noconvert(),
      py::arg("intercept"), py::arg("counts").noconvert(), py::arg("masses").noconvert());
  m.def(
      "arrange_rows",
      [](const Array<std::int64_t>& begin, const Array<Index>& columns, const Array<Value>& values,
         float intercept, const Array<std::int64_t>& order, const Array<std::int32_t>& number,
         const Array<std::int64_t>& new_begin, Array<std::int32_t>& new_columns,
         Array<float>& new_values, std::size_t threads) {
        const auto from = csr(begin, columns, values, intercept);
        const auto entries = new_begin.at(new_begin.size() - 1);
        expect(new_begin.size() == order.size() + 1, "new_begin: expected one more than order");
        expect(new_columns.size() == entries + static_cast<py::ssize_t>(kLanes) &&
                   new_values.size() == new_columns.size(),
               "new_columns, new_values: expected LINEAR_LANES more than entries");
        const Arranged to{in(new_begin), new_columns.mutable_data(), new_values.mutable_data()};
        const py::gil_scoped_release others_may_run;
        arrange(from, in(order), in(number), threads, to);
      },
      py::arg("begin").noconvert(), py::arg("columns").noconvert(), py::arg("values").noconvert(),
      py::arg("intercept"), py::arg("order").noconvert(), py::arg("number").noconvert(),
      py::arg("new_begin").noconvert(), py::arg("new_columns").noconvert(),
      py::arg("new_values").noconvert(), py::arg("threads"));
}

void bind_sums(py::module_& m) {
  m.def(
      "add_rows",
      [](const Array<std::int64_t>& begin, const Array<std::int32_t>& columns,
         const Array<float>& values, const Array<double>& factors, Array<double>& to) {
        expect(factors.size() == begin.size() - 1, "factors: expected one for each row");
        const auto rows = csr(begin, columns, values, 0);
        const std::span<const double> each = in(factors);
        const std::span<double> sum = out(to);
        const py::gil_scoped_release others_may_run;
        add_rows(rows, each, sum);
      },
      py::arg("begin").noconvert(), py::arg("columns").noconvert(), py::arg("values").noconvert(),
      py::arg("factors").noconvert(), py::arg("to").noconvert());
}

py::array_t<std::int64_t> copy_of(const std::vector<std::int64_t>& numbers) {
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
}

template <class Index>
void bind_conflicts(py::module_& m) {
  m.def(
      "find_conflicts",
      [](const Array<std::int64_t>& begin, const Array<Index>& columns, std::size_t count,
         const Array<std::int64_t>& rows, std::size_t block, std::size_t threads) {
        Conflicts found;
        {
          const std::span<const std::int64_t> begins = in(begin), order = in(rows);
          const std::span<const Index> entries = in(columns);
          const py::gil_scoped_release others_may_run;
          found = find_conflicts(begins, entries, count, order, block, threads);
        }
        return py::make_tuple(copy_of(found.rows), copy_of(found.pieces), found.longest);
      },
      py::arg("begin").noconvert(), py::arg("columns").noconvert(), py::arg("count"),
      py::arg("rows").noconvert(), py::arg("block"), py::arg("threads"));
}

const Kernel& kernel_of(const std::string& loss, const std::string& step) {
  for (const Kernel& k : kernels())
    if (loss == k.loss && step == k.step) return k;
  throw std::invalid_argument("loss, step: expected a pair of linear_kernels(), got " + loss +
                              ", " + step);
}

// A trainer with the arrays of its examples.
class Training {
 public:
  Training(const std::string& loss, const std::string& step, const std::string& sync,
           std::size_t columns, std::size_t workers, std::size_t examples, std::uintptr_t custom)
      : trainer_(kernel_of(loss, step), sync_of(std::span<const Sync>(kSyncs), sync), columns,
                 workers, examples),
        columns_(columns),
        custom_(reinterpret_cast<CustomLoss::Function>(custom)) {
    expect((loss == "custom") == (custom != 0), "custom: expected the address of loss='custom'");
  }

  Trainer& trainer() { return trainer_; }

  double run(const Array<std::int64_t>& begin, const Array<std::int32_t>& columns,
             const Array<float>& values, const Array<float>& targets,
             const std::optional<Array<float>>& weights, std::optional<Array<float>>& notes,
             const Array<std::int64_t>& order, std::size_t block,
             const std::optional<Array<std::int64_t>>& pieces, std::uint64_t t, std::uint64_t since,
             const Array<float>& spacing, const Array<float>& curvatures,
             const std::optional<Array<double>>& anchors, const std::optional<Array<float>>& base,
             const std::vector<float>& numbers) {
    const auto rows = begin.size() - 1;
    const auto size = static_cast<py::ssize_t>(columns_);
    const auto kept = static_cast<py::ssize_t>(trainer_.notes());
    expect((kept > 0) == notes.has_value() && (!notes || notes->size() == kept * rows),
           "notes: expected the trainer's number for each row, None if that is 0");
    expect((kept > 0) == anchors.has_value() && (!anchors || anchors->size() == 2 * rows),
           "anchors: expected two for each row of a trainer with notes, else None");
    expect(!base || base->size() == size, "base: expected one for each column, or None");
    expect(spacing.size() == size && curvatures.size() == size,
           "spacing, curvatures: expected one for each column");
    const std::size_t blocks = (static_cast<std::size_t>(rows) + block - 1) / block;
    expect(!pieces || static_cast<std::size_t>(pieces->size()) == blocks * kPieces + 1,
           "pieces: expected find_conflicts' of these blocks");
    Pass pass{};
    pass.rows = rows_of(begin, columns, values, targets, weights);
    if (notes) pass.rows.notes = notes->mutable_data();
    if (anchors) pass.rows.anchors = reinterpret_cast<const Anchor*>(anchors->data());
    pass.count = static_cast<std::size_t>(rows);
    pass.block = block;
    pass.order = in(order);
    if (pieces) pass.pieces = in(*pieces);
    pass.t = t;
    pass.settings = settings_of(numbers);
    pass.settings.spacing = spacing.data();
    pass.settings.since = since;
    if (base) pass.settings.base = base->data();
    pass.curvatures = curvatures.data();
    std::optional<double> losses;
    {
      const py::gil_scoped_release others_may_run;
      losses = trainer_.run(pass, no_signal);
    }
    if (!losses) throw py::error_already_set();
    check_custom();
    return *losses;
  }

  double gauge(const Array<std::int64_t>& begin, const Array<std::int32_t>& columns,
               const Array<float>& values, const Array<float>& targets,
               const std::optional<Array<float>>& weights, const std::vector<float>& numbers,
               const Array<double>& at, Array<double>& anchors, Array<double>& derivatives,
               Array<double>& gradient) {
    const auto rows = begin.size() - 1;
    const auto size = static_cast<py::ssize_t>(columns_);
    expect(trainer_.notes() > 0, "gauge: expected a trainer with notes");
    expect(at.size() == size && gradient.size() == size,
           "at, gradient: expected one for each column");
    expect(anchors.size() == 2 * rows && derivatives.size() == rows,
           "anchors, derivatives: expected two and one for each row");
    const Gauging to{at.data(), reinterpret_cast<Anchor*>(anchors.mutable_data()),
                     derivatives.mutable_data(), gradient.mutable_data()};
    const Rows given = rows_of(begin, columns, values, targets, weights);
    const Settings settings = settings_of(numbers);
    double losses = 0;
    {
      const py::gil_scoped_release others_may_run;
      losses = trainer_.gauge(given, static_cast<std::size_t>(rows), settings, to);
    }
    check_custom();
    return losses;
  }

 private:
  Rows rows_of(const Array<std::int64_t>& begin, const Array<std::int32_t>& columns,
               const Array<float>& values, const Array<float>& targets,
               const std::optional<Array<float>>& weights) const {
    const auto rows = begin.size() - 1;
    expect(targets.size() == rows && (!weights || weights->size() == rows),
           "targets, weights: expected one for each row");
    return {begin.data(),
            columns.data(),
            values.data(),
            targets.data(),
            weights ? weights->data() : nullptr,
            nullptr};
  }

  Settings settings_of(const std::vector<float>& numbers) {
    expect(numbers.size() == 7, "numbers: expected eta0, decay, l1, l2, epsilon, power, examples");
    Settings settings{numbers[0], numbers[1], numbers[2], numbers[3],
                      numbers[4], nullptr,    numbers[6], &custom_};
    settings.power = numbers[5];
    return settings;
  }

  void check_custom() const {
    if (const auto at = custom_.failure()) {
      std::ostringstream message;
      message << "loss: expected a finite value and derivative, got " << at->value << " and "
              << at->derivative << " at prediction " << at->prediction << ", target " << at->target
              << "; an exception counts as nan; if it is right there, steps are too large: lower "
                 "eta0, or raise curvature with saga and svrg";
      throw std::invalid_argument(message.str());
    }
  }

  Trainer trainer_;
  std::size_t columns_;
  CustomLoss custom_;
};

// An array view of the trainer's memory.
py::array_t<float> view(std::span<float> memory, const py::object& owner) {
  return py::array_t<float>(static_cast<py::ssize_t>(memory.size()), memory.data(), owner);
}

}  // namespace

void bind_linear(py::module_& m) {
  m.attr("LINEAR_LANES") = kLanes;
  m.def("linear_kernels", [] {
    py::list all;
    for (const Kernel& k : kernels()) all.append(py::make_tuple(k.loss, k.step, k.curvature));
    return all;
  });
  m.def("linear_syncs", [] { return names_of(std::span<const Sync>(kSyncs)); });
  bind_rows<std::int32_t, float>(m);
  bind_rows<std::int32_t, double>(m);
  bind_rows<std::int64_t, float>(m);
  bind_rows<std::int64_t, double>(m);
  bind_sums(m);
  bind_conflicts<std::int32_t>(m);
  bind_conflicts<std::int64_t>(m);
  py::class_<Training>(m, "LinearTrainer")
      .def(py::init<const std::string&, const std::string&, const std::string&, std::size_t,
                    std::size_t, std::size_t, std::uintptr_t>(),
           py::kw_only(), py::arg("loss"), py::arg("step"), py::arg("sync"), py::arg("columns"),
           py::arg("workers"), py::arg("examples"), py::arg("custom") = 0)
      .def_static(
          "bytes_needed",
          [](const std::string& loss, const std::string& step, const std::string& sync,
             std::size_t columns, std::size_t workers, std::size_t examples) {
            return Trainer::bytes_needed(kernel_of(loss, step),
                                         sync_of(std::span<const Sync>(kSyncs), sync), columns,
                                         workers, examples);
          },
          py::kw_only(), py::arg("loss"), py::arg("step"), py::arg("sync"), py::arg("columns"),
          py::arg("workers"), py::arg("examples"))
      .def("run", &Training::run, py::kw_only(), py::arg("begin").noconvert(),
           py::arg("columns").noconvert(), py::arg("values").noconvert(),
           py::arg("targets").noconvert(), py::arg("weights").noconvert(),
           py::arg("notes").noconvert(), py::arg("order").noconvert(), py::arg("block"),
           py::arg("pieces").noconvert(), py::arg("t"), py::arg("since"),
           py::arg("spacing").noconvert(), py::arg("curvatures").noconvert(),
           py::arg("anchors").noconvert(), py::arg("base").noconvert(), py::arg("numbers"))
      .def("gauge", &Training::gauge, py::kw_only(), py::arg("begin").noconvert(),
           py::arg("columns").noconvert(), py::arg("values").noconvert(),
           py::arg("targets").noconvert(), py::arg("weights").noconvert(), py::arg("numbers"),
           py::arg("at").noconvert(), py::arg("anchors").noconvert(),
           py::arg("derivatives").noconvert(), py::arg("gradient").noconvert())
      .def_property_readonly("notes", [](Training& self) { return self.trainer().notes(); })
      .def_property_readonly("weights",
                             [](const py::object& self) {
                               return view(self.cast<Training&>().trainer().weights(), self);
                             })
      .def_property_readonly("squares",
                             [](const py::object& self) {
                               return view(self.cast<Training&>().trainer().squares(), self);
                             })
      .def_property_readonly("sums", [](const py::object& self) {
        return view(self.cast<Training&>().trainer().sums(), self);
      });
}

}  // namespace asyncopt::python
