#include "plan.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>

namespace asyncopt::python {
namespace {

const dlpack::ExchangeApi* exchange_api() {
  static const dlpack::ExchangeApi* const api = [] {
    const py::object tensor = py::module_::import("torch").attr("Tensor");
    if (!py::hasattr(tensor, "__dlpack_c_exchange_api__"))
      throw py::import_error(
          "torch: expected version 2.10 or later (with the DLPack exchange API); upgrade torch");
    const py::object capsule = tensor.attr("__dlpack_c_exchange_api__");
    auto* const table = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (table == nullptr) throw py::error_already_set();
    if (table->version.major != 1 || table->describe == nullptr)
      throw py::import_error(
          "torch: its DLPack exchange API is not version 1; install an asyncopt that supports it");
    return table;
  }();
  return api;
}

bool is_tensor(PyObject* object) {
  static PyObject* const type =
      py::object(py::module_::import("torch").attr("Tensor")).release().ptr();
  return PyObject_IsInstance(object, type) == 1;
}

std::string joined(std::span<const char* const> names) {
  std::string text;
  for (const char* const name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

// Raises TypeError that names the hyperparameter which Python could not convert to a number.
[[noreturn]] void refuse_hyper(std::size_t group, const char* name, PyObject* value) {
  py::error_already_set error;
  if (!error.matches(PyExc_TypeError) && !error.matches(PyExc_ValueError)) throw error;
  const std::string message = "param_groups[" + std::to_string(group) + "]: " + name +
                              ": expected a number, got " + std::string(py::repr(value));
  py::raise_from(error, PyExc_TypeError, message.c_str());
  throw py::error_already_set();
}

}  // namespace

Plan::Plan(std::unique_ptr<Target> target, std::unique_ptr<DeviceTarget> device)
    : target_(std::move(target)), device_(std::move(device)), api_(exchange_api()) {
  if (target_ != nullptr && target_->watched) replica_.emplace();
}

Plan::~Plan() {
  if (device_ == nullptr) return;
  const py::gil_scoped_release others_may_run;  // releasing memory waits for the device
  device_.reset();
}

void Plan::add_group() {
  groups_.emplace_back();
  group_sizes_.push_back(0);
  rates_.emplace_back();
}

void Plan::add_tensor(std::size_t kernel, py::object param, py::object local, py::object state,
                      py::tuple entry_names, py::tuple entries, std::uintptr_t param_at,
                      const std::vector<std::uintptr_t>& slots_at, std::uintptr_t scalars_at,
                      std::optional<std::uintptr_t> journal_at) {
  dlpack::Tensor t{};
  if (api_->describe(local.ptr(), &t) != 0) throw py::error_already_set();
  const auto code = t.dtype.code, bits = t.dtype.bits;
  std::vector<std::int64_t> shape(t.shape, t.shape + t.ndim);
  std::vector<std::int64_t> strides(t.strides, t.strides + t.ndim);
  Block block;
  block.kernel = &kernels()[kernel];
  block.param = param_at;
  for (std::size_t k = 0; k < slots_at.size() && k < kMaxSlots; ++k) block.slots[k] = slots_at[k];
  block.scalars = scalars_at;
  block.n = dlpack::elements(t);
  block.width =
      t.ndim == 0 || block.n == 0 ? block.n : block.n / static_cast<std::size_t>(t.shape[0]);
  if (journal_at) {
    block.journal = *journal_at;
    block.journal_rows = block.n / std::max(block.width, std::size_t{1});
  }
  blocks_.push_back(block);
  pulls_.push_back({param_at, dlpack::data_of(t), block.n * block.kernel->param_bytes});
  if (replica_) replica_->add(param, pulls_.back(), block.kernel->param_bytes);
  if (target_ != nullptr && target_->replica) {
    const std::size_t slots = block.kernel->slots.size();
    for (std::size_t k = 0; k < entries.size(); ++k) {
      if (api_->describe(PyTuple_GET_ITEM(entries.ptr(), static_cast<Py_ssize_t>(k)), &t) != 0)
        throw py::error_already_set();
      const PullBlock pull = k < slots ? PullBlock{block.slots[k], dlpack::data_of(t),
                                                   dlpack::elements(t) * block.kernel->state_bytes}
                                       : PullBlock{block.scalars + (k - slots) * sizeof(double),
                                                   dlpack::data_of(t), sizeof(double)};
      // State may be the store's own memory even if parameters are copies.
      if (pull.replica != target_->segment.data() + pull.param) state_pulls_.push_back(pull);
    }
  }
  const PyGetSetDef* const grad = Tensor::grad_getter(param.ptr());
  tensors_.push_back({std::move(param), std::move(local), std::move(state), std::move(entry_names),
                      std::move(entries), code, bits, std::move(shape), std::move(strides),
                      groups_.size() - 1, grad});
  ++group_sizes_.back();
  // Recomputed for each tensor, because adding one may move the vector that the spans point into.
  const Block* at = blocks_.data();
  for (std::size_t g = 0; g < groups_.size(); at += group_sizes_[g++])
    groups_[g].blocks = {at, group_sizes_[g]};
}

// True if the groups hold exactly the parameters of the plan.
bool Plan::holds_parameters(const py::list& groups) const {
  static PyObject* const params_key = PyUnicode_InternFromString("params");
  if (groups.size() != groups_.size()) return false;
  std::size_t i = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    PyObject* const params = PyDict_GetItemWithError(
        PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(g)), params_key);
    if (params == nullptr || !PyList_Check(params)) return false;
    if (static_cast<std::size_t>(PyList_GET_SIZE(params)) != group_sizes_[g]) return false;
    for (std::size_t k = 0; k < group_sizes_[g]; ++k)
      if (PyList_GET_ITEM(params, static_cast<Py_ssize_t>(k)) != tensors_[i++].param.ptr())
        return false;
  }
  return true;
}

// True if the groups, the state and the state's tensors are still those of the plan.
bool Plan::current(const py::list& groups, const py::dict& state) const {
  if (!holds_parameters(groups)) return false;
  Py_ssize_t position = 0;
  PyObject *key = nullptr, *value = nullptr;
  for (const Tensor& t : tensors_) {
    if (t.state.is_none()) continue;
    if (!PyDict_Next(state.ptr(), &position, &key, &value)) return false;
    if (key != t.param.ptr() || value != t.state.ptr()) return false;
    for (Py_ssize_t e = 0; e < PyTuple_GET_SIZE(t.entries.ptr()); ++e)
      if (PyDict_GetItemWithError(value, PyTuple_GET_ITEM(t.entry_names.ptr(), e)) !=
          PyTuple_GET_ITEM(t.entries.ptr(), e))
        return false;
  }
  return true;
}

// Reads the hyperparameters, which users may set to any object.
void Plan::read_hyper(const How& how) {
  const py::list& hyper = std::get<2>(how);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].blocks.empty()) continue;
    const std::span<const char* const> names = groups_[g].blocks[0].kernel->hyper;
    PyObject* const values = PyList_GET_ITEM(hyper.ptr(), static_cast<Py_ssize_t>(g));
    if (static_cast<std::size_t>(PyTuple_GET_SIZE(values)) != names.size())
      throw py::value_error("param_groups[" + std::to_string(g) + "]: expected " +
                            std::to_string(names.size()) + " numbers, " + joined(names) + "; got " +
                            std::to_string(PyTuple_GET_SIZE(values)));
    for (std::size_t h = 0; h < names.size(); ++h) {
      PyObject* const number = PyTuple_GET_ITEM(values, static_cast<Py_ssize_t>(h));
      if (h == 0 && device_ != nullptr && read_rate(g, number)) continue;
      const double value = PyFloat_AsDouble(number);
      if (value == -1 && PyErr_Occurred() != nullptr) refuse_hyper(g, names[h], number);
      groups_[g].hyper[h] = value;
    }
  }
}

// Sets the address of a learning rate that is a tensor on the device. The step reads it there, so
// that replays of a graph use its current value. False if it is not such a tensor.
bool Plan::read_rate(std::size_t group, PyObject* value) {
  rates_[group] = {};
  if (PyFloat_CheckExact(value) || !is_tensor(value)) return false;
  dlpack::Tensor t{};
  if (api_->describe(value, &t) != 0) throw py::error_already_set();
  if (!is_here(t) || t.dtype.code != dlpack::kFloat || t.dtype.bits < 32 ||
      dlpack::elements(t) != 1 || is_negated(value))
    return false;
  rates_[group] = {dlpack::data_of(t), t.dtype.bits / std::size_t{8}};
  return true;
}

const float* Plan::number_at(const py::object& tensor, const char* name) {
  if (tensor.is_none()) return nullptr;
  dlpack::Tensor t{};
  if (is_tensor(tensor.ptr()) && api_->describe(tensor.ptr(), &t) != 0)
    throw py::error_already_set();
  if (t.data == nullptr || !is_here(t) || t.dtype.code != dlpack::kFloat || t.dtype.bits != 32 ||
      dlpack::elements(t) != 1)
    throw py::value_error(std::string(name) +
                          ": expected one float32 number on the device of the parameters");
  return reinterpret_cast<const float*>(dlpack::data_of(t));
}

// True if a tensor is on the plan's device.
bool Plan::is_here(const dlpack::Tensor& tensor) const {
  if (device_ == nullptr) return tensor.device_type == dlpack::kCpu;
  return tensor.device_type == device_->type && tensor.device_id == device_->id;
}

// Adopts the address of a parameter whose memory was replaced (param.data = ...). False if that is
// not allowed, or the layout has changed.
bool Plan::locate(std::size_t i, const dlpack::Tensor& param) {
  if (!is_here(param) || !tensors_[i].has_layout_of(param)) return false;
  std::byte* const data = dlpack::data_of(param);
  if (may_be_negated(param) && is_negated(tensors_[i].local.ptr())) return false;
  if (target_ == nullptr) {
    blocks_[i].param = reinterpret_cast<std::uintptr_t>(data);
  } else if (target_->replica) {
    pulls_[i].replica = data;
  } else if (data != target_->segment.data() + blocks_[i].param && blocks_[i].n != 0) {
    return false;
  }
  return true;
}

void Plan::locate_all() {
  dlpack::Tensor param{};
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (api_->describe(tensors_[i].local.ptr(), &param) != 0) throw py::error_already_set();
    if (!locate(i, param))
      throw py::value_error("params[" + std::to_string(i) + "]: was replaced since it was shared");
  }
}

// Admits one caller at a time. Others wait without the GIL, which the first needs to finish.
std::unique_lock<std::mutex> Plan::one_caller() {
  std::unique_lock lock(busy_, std::try_to_lock);
  if (!lock) {
    const py::gil_scoped_release others_may_run;
    lock.lock();
  }
  return lock;
}

// A push of all groups, with the writes to the replica.
Push Plan::request(const How& how) {
  const auto& [groups, state, hyper, threads, seed, audit, skip_nonfinite] = how;
  Push push{groups_, threads, seed, audit, skip_nonfinite};
  if (target_ != nullptr) push.unfinished = &target_->unfinished;
  if (replica_) {
    replica_->look(pulls_);
    push.writes = replica_->writes(blocks_);
  }
  return push;
}

int Plan::step(const How& how, const py::object& grads) { return step_with({}, how, grads); }

int Plan::step_with(const Scaling& scaling, const How& how, const py::object& grads) {
  const auto lock = one_caller();
  if (!current(how)) return kStale;
  if (!read_gradients(grads)) return kOddGradient;
  read_hyper(how);
  const int updated = updated_;
  const bool applied = run(request(how), /*refresh=*/true, scaling);
  held_.clear();
  return applied ? updated : kSkipped;
}

int Plan::step_scaled(const How& how, const py::object& grads, const py::object& grad_scale,
                      const py::object& found_inf) {
  if (device_ == nullptr) throw std::logic_error("step_scaled: expected a plan on a device");
  return step_with({number_at(grad_scale, "grad_scale"), number_at(found_inf, "found_inf")}, how,
                   grads);
}

std::uint64_t Plan::skipped() {
  if (device_ == nullptr) return 0;
  const py::gil_scoped_release others_may_run;
  return device_->stepper.skipped();
}

int Plan::step_rows(const How& how, std::size_t index, std::uintptr_t rows, std::size_t row_count,
                    std::uintptr_t values) {
  const auto lock = one_caller();
  if (!current(how)) return kStale;
  read_hyper(how);
  dlpack::Tensor param{};
  if (api_->describe(tensors_.at(index).local.ptr(), &param) != 0) throw py::error_already_set();
  if (!locate(index, param)) return kOddGradient;
  if (replica_) locate_all();
  Block block = blocks_[index];
  block.rows = reinterpret_cast<const std::int64_t*>(rows);
  block.row_count = row_count;
  block.grad = reinterpret_cast<const void*>(values);
  Group group = groups_[tensors_[index].group];
  group.blocks = {&block, 1};
  Push one = request(how);
  one.groups = {&group, 1};
  return run(one) ? 1 : kSkipped;
}

int Plan::catch_up(const How& how, std::optional<std::size_t> index,
                   std::optional<std::pair<std::uintptr_t, std::size_t>> rows) {
  const auto lock = one_caller();
  if (!current(how)) return kStale;
  read_hyper(how);
  dlpack::Tensor param{};
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    blocks_[i].grad = nullptr;
    blocks_[i].rows = nullptr;
    if (blocks_[i].journal_rows == 0) continue;
    if (api_->describe(tensors_[i].local.ptr(), &param) != 0) throw py::error_already_set();
    if (!locate(i, param)) return kOddGradient;
  }
  Push payment = request(how);
  payment.skip_nonfinite = false;
  payment.catch_up = true;
  Block block;
  Group group;
  if (index) {
    block = blocks_.at(*index);
    if (rows) {
      block.rows = reinterpret_cast<const std::int64_t*>(rows->first);
      block.row_count = rows->second;
    }
    group = groups_[tensors_[*index].group];
    group.blocks = {&block, 1};
    payment.groups = {&group, 1};
  }
  run(payment);
  return 0;
}

bool Plan::is_finite(const py::list& grads) {
  const auto lock = one_caller();
  if (!read_gradients(grads))
    throw py::value_error("grads: expected gradients in the layout of their parameters");
  const bool finite = [this] {
    const py::gil_scoped_release others_may_run;
    return asyncopt::is_finite({.groups = groups_});
  }();
  held_.clear();
  return finite;
}

// False if the push was skipped.
bool Plan::run(const Push& request, bool refresh, const Scaling& scaling) {
  if (device_ != nullptr) {
    device::Step step{request,          nullptr, device_->atomic, rates_, scaling.grad_scale,
                      scaling.found_inf};
    if (device_->type != dlpack::kCpu &&
        api_->current_stream(device_->type, device_->id, &step.stream) != 0)
      throw py::error_already_set();
    const py::gil_scoped_release others_may_run;  // the step may wait for a table, or for memory
    device_->stepper.step(step);
    return true;  // the device decides later whether the step is skipped; see Plan::skipped
  }
  if (target_ == nullptr) {
    const py::gil_scoped_release others_may_run;
    return !push_alone(request).skipped;
  }
  const bool applied = run_shared(request, refresh);
  if (replica_) replica_->mark_changed();
  return applied;
}

// Runs a push over a store. False if it was skipped.
bool Plan::run_shared(const Push& request, bool refresh) {
  target_->segment.check_worker(target_->worker);
  const py::gil_scoped_release others_may_run;
  // If a step's refresh timed out, the next step only refreshes and does not push again: new
  // gradients would come from a replica that is not one version.
  const bool is_step = refresh && !request.catch_up, is_pushed = is_step && owes_refresh_;
  if (is_step && is_torn_ && !is_pushed)
    throw std::runtime_error(
        "step: expected gradients of one version, got a replica that the last pull() left torn at "
        "its LockTimeout; call pull(), and compute the gradients again");
  const bool applied =
      is_pushed || !asyncopt::push(target_->segment, target_->worker, request).skipped;
  if (replica_ && applied && !is_pushed) replica_->pushed();
  if (!refresh || !target_->replica) return applied;
  if (is_step) owes_refresh_ = true;
  try {
    pull_replica();
  } catch (const LockTimeout& timeout) {
    if (!is_step) throw;
    throw LockTimeout(std::string(timeout.what()) +
                      "; this step's gradients were applied, but the parameters were not copied "
                      "back: call step() again, which only copies them");
  }
  if (is_step) owes_refresh_ = false;
  return applied;
}

// Pulls the parameters and `state`. Called without the GIL.
std::uint64_t Plan::pull_replica(std::span<const PullBlock> state) {
  try {
    std::uint64_t version = 0;
    if (replica_) {
      version = replica_->pull(target_->segment, target_->worker, pulls_, state);
    } else {
      std::vector<PullBlock> everything = pulls_;
      everything.insert(everything.end(), state.begin(), state.end());
      version = asyncopt::pull(target_->segment, target_->worker, everything);
    }
    is_torn_ = false;
    return version;
  } catch (const TornPull&) {
    is_torn_ = true;
    throw;
  }
}

namespace {

Part part_of(const std::string& name) {
  for (const auto& [known, part] :
       {std::pair("whole", Part::whole), {"some", Part::some}, {"last", Part::last}})
    if (name == known) return part;
  throw py::value_error("part: expected 'whole', 'some' or 'last', got '" + name + "'");
}

}  // namespace

void bind_plan(py::module_& m) {
  py::class_<Plan> plan(
      m, "Plan", "What a step needs to know about an optimizer's tensors, kept between steps.");
  plan.attr("STALE") = Plan::kStale;
  plan.attr("ODD_GRADIENT") = Plan::kOddGradient;
  plan.attr("SKIPPED") = Plan::kSkipped;
  plan.def_static(
      "on_device",
      [](std::uintptr_t backend, std::int32_t type, std::int32_t id, bool atomic) {
        auto* const device = reinterpret_cast<device::Backend*>(backend);
        return std::make_unique<Plan>(nullptr, std::unique_ptr<DeviceTarget>(new DeviceTarget{
                                                   device::Stepper(*device), type, id, atomic}));
      },
      py::arg("backend"), py::arg("type"), py::arg("id"), py::arg("atomic"));
  plan.def(py::init([](const Segment* segment, std::size_t worker, bool replica, bool watched) {
             return std::make_unique<Plan>(
                 segment == nullptr
                     ? nullptr
                     : std::make_unique<Target>(Target{*segment, worker, replica, watched}));
           }),
           py::arg("segment"), py::arg("worker"), py::arg("replica"), py::arg("watched"),
           py::keep_alive<1, 2>())
      .def("add_group", &Plan::add_group)
      .def("add_tensor", &Plan::add_tensor, py::arg("kernel"), py::arg("param"), py::arg("local"),
           py::arg("state"), py::arg("entry_names"), py::arg("entries"), py::arg("param_at"),
           py::arg("slots_at"), py::arg("scalars_at"), py::arg("journal_at"))
      .def("step", &Plan::step)
      .def("step_scaled", &Plan::step_scaled)
      .def("skipped", &Plan::skipped)
      .def("step_rows", &Plan::step_rows)
      .def("catch_up", &Plan::catch_up)
      .def("keep_gradients", &Plan::keep_gradients)
      .def("has_gradients", &Plan::has_gradients)
      .def("push",
           [](Plan& self, const How& how, const py::list& grads, const std::string& part,
              const Writes& writes) { return self.push(how, grads, part_of(part), writes); })
      .def("publish", &Plan::publish, py::arg("writes") = Writes{})
      .def("continue_from", &Plan::continue_from)
      .def("follow_memory", &Plan::follow_memory)
      .def("is_finite", &Plan::is_finite)
      .def("pull", &Plan::pull)
      .def("pull_to", &Plan::pull_to);
}

}  // namespace asyncopt::python
