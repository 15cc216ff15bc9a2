// Plan of an optimizer's step: cached data about its tensors. With it, a step only reads gradients,
// checks that nothing else has changed, and calls the engine.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "asyncopt/device/stepper.h"
#include "asyncopt/push/push.h"
#include "dlpack.h"
#include "replica.h"

namespace asyncopt::python {

namespace py = pybind11;

// The store of a plan, and this worker's access to it.
struct Target {
  Segment segment;
  std::size_t worker;
  bool replica;
  bool watched;             // true if user code may write to the replica
  Unfinished unfinished{};  // progress of a push interrupted by a LockTimeout
};

// The device of a plan's tensors, and its stepper. `type` and `id` are DLPack's.
struct DeviceTarget {
  device::Stepper stepper;
  std::int32_t type, id;
  bool atomic;
};

// GradScaler's numbers, in device memory.
struct Scaling {
  const float* grad_scale = nullptr;
  const float* found_inf = nullptr;
};

// Writes to a replica on a device. Per parameter: its index, and the host addresses of its written
// and of its pulled values, in the parameter's memory order.
using Writes = std::vector<std::tuple<std::size_t, std::uintptr_t, std::uintptr_t>>;

// Arguments of a push: optimizer.param_groups, optimizer.state, a tuple of numbers per group,
// threads, seed, audit, skip_nonfinite.
using How = std::tuple<py::list, py::dict, py::list, std::size_t, std::uint32_t, bool, bool>;

// True if torch's negative bit may be set on a tensor without gaps. Torch sets the bit on the
// imaginary part of a conjugate, whose elements have a stride of 2, so several elements have gaps.
// (The private `torch._neg_view` sets it on any tensor; that case is not detected.)
inline bool may_be_negated(const dlpack::Tensor& tensor) { return dlpack::elements(tensor) == 1; }
// True if the bit is set: memory then holds the negated values. DLPack does not report it.
bool is_negated(PyObject* tensor);

class Plan {
 public:
  // For tensors in a store, on a device, or, with neither, in host memory without other workers.
  explicit Plan(std::unique_ptr<Target> target, std::unique_ptr<DeviceTarget> device = nullptr);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Starts a group; tensors added next belong to it.
  void add_group();
  // `param_at`, `slots_at`, `scalars_at`: byte offsets into the store, or addresses without one.
  // `state` is the dict that optimizer.state holds for `param`, `entries` the objects that it must
  // hold. `local`: the tensor whose memory is written: `param` itself, or this process's part of
  // it. `journal_at`: position of its journal, if updates are lazy.
  void add_tensor(std::size_t kernel, py::object param, py::object local, py::object state,
                  py::tuple entry_names, py::tuple entries, std::uintptr_t param_at,
                  const std::vector<std::uintptr_t>& slots_at, std::uintptr_t scalars_at,
                  std::optional<std::uintptr_t> journal_at);
  // From now on a gradient of a parameter that does not require one is reported as kOddGradient:
  // a kept gradient of a parameter that was frozen must be checked before it is applied.
  void keep_gradients() { keeps_gradients_ = true; }

  // Returned by a step instead of the number of updated tensors, if nothing was written. kStale:
  // the optimizer's groups or state are no longer those of the plan. kOddGradient: the kernels
  // cannot use a tensor or gradient.
  static constexpr int kStale = -1;
  static constexpr int kOddGradient = -2;
  static constexpr int kSkipped = -3;

  // Performs one step. `grads` overrides the tensors' own .grad.
  int step(const How& how, const py::object& grads);
  // The same with the given gradients, one per tensor or None, and without a refresh of a replica.
  int push(const How& how, const py::list& grads, Part part, const Writes& writes);
  // Applies writes to the store without a step: `writes`, or those to a replica since its last
  // pull. Returns true if there were any.
  bool publish(const Writes& writes);
  // Adopts the parameters' new addresses after the launching process has moved memory; they do not
  // count as writes.
  void follow_memory();
  // Takes over the previous plan's record of writes to the replica.
  void continue_from(const Plan& before);
  // True if all gradients that `push` would take are finite.
  bool is_finite(const py::list& grads);
  // One step on a device, for GradScaler: divides gradients in place by `grad_scale`, and does
  // nothing if `found_inf` is not 0. Both are None or a float32 number on the device.
  int step_scaled(const How& how, const py::object& grads, const py::object& grad_scale,
                  const py::object& found_inf);
  // Number of skipped steps on a device. Waits for the device.
  std::uint64_t skipped();
  // One step of some rows of tensor `index`. The caller has checked rows and values.
  int step_rows(const How& how, std::size_t index, std::uintptr_t rows, std::size_t row_count,
                std::uintptr_t values);
  // Replays missed pushes of tensor `index`, or of all tensors, without a step. `rows`: address and
  // number of row indices, if not all rows. Returns kStale, kOddGradient or 0.
  int catch_up(const How& how, std::optional<std::size_t> index,
               std::optional<std::pair<std::uintptr_t, std::size_t>> rows);
  // True if the groups hold the plan's parameters in the plan's layout, and their gradients are
  // still `grads`, at these addresses. A None in `grads` requires a parameter without a gradient
  // and with requires_grad=False.
  bool has_gradients(const py::list& groups, const py::list& grads,
                     const py::list& addresses) const;
  // Refreshes a replica's parameters and state from one version; returns that version. Keeps writes
  // to the replica that were not pushed.
  std::uint64_t pull();
  // Copies some parameters of one version to the given addresses, in the tensors' memory order;
  // returns the version.
  std::uint64_t pull_to(const std::vector<std::size_t>& indices,
                        const std::vector<std::uintptr_t>& addresses);

 private:
  struct Tensor {
    py::object param, local, state;
    py::tuple entry_names, entries;
    std::uint8_t code, bits;
    std::vector<std::int64_t> shape, strides;
    std::size_t group;
    const PyGetSetDef* grad;  // the C function of .grad; null if a subclass overrides it
    bool sparse = false;      // true if its last gradient was sparse

    static const PyGetSetDef* grad_getter(PyObject* param);
    py::object gradient() const;
    bool is_frozen() const;
    bool has_layout_of(const dlpack::Tensor& other) const;
  };

  bool holds_parameters(const py::list& groups) const;
  bool current(const py::list& groups, const py::dict& state) const;
  bool current(const How& how) const { return current(std::get<0>(how), std::get<1>(how)); }
  void read_hyper(const How& how);
  bool read_rate(std::size_t group, PyObject* value);
  const float* number_at(const py::object& tensor, const char* name);
  bool is_here(const dlpack::Tensor& tensor) const;
  bool locate(std::size_t i, const dlpack::Tensor& param);
  void locate_all();
  std::unique_lock<std::mutex> one_caller();
  bool read_gradients(const py::object& grads);
  bool read_sparse(std::size_t i, const py::object& grad, const dlpack::Tensor& param);
  int step_with(const Scaling& scaling, const How& how, const py::object& grads);
  Push request(const How& how);
  std::vector<ReplicaWrite> located(const Writes& writes) const;
  bool run(const Push& push, bool refresh = true, const Scaling& scaling = {});
  std::uint64_t pull_replica(std::span<const PullBlock> state = {});
  bool run_shared(const Push& push, bool refresh);

  std::unique_ptr<Target> target_;
  std::unique_ptr<DeviceTarget> device_;
  std::vector<device::Rate> rates_;  // one per group
  const dlpack::ExchangeApi* api_;
  std::vector<Tensor> tensors_;
  std::vector<Block> blocks_;
  std::vector<PullBlock> pulls_;        // the parameters, which a step refreshes
  std::vector<PullBlock> state_pulls_;  // the state, which only pull() refreshes
  std::optional<Replica> replica_;      // the parameters, if user code may write to them
  std::vector<Group> groups_;
  std::vector<std::size_t> group_sizes_;
  std::vector<py::object> held_;  // gradients in use while the GIL is released
  int updated_ = 0;               // number of tensors with a gradient
  bool keeps_gradients_ = false;
  bool owes_refresh_ = false;  // the last step's push was applied, but its pull timed out
  bool is_torn_ = false;       // the last pull timed out and left the replica torn
  std::mutex busy_;            // several threads may call one optimizer
};

void bind_plan(py::module_& m);
void bind_segment(py::module_& m);
void bind_board(py::module_& m);
void bind_linear(py::module_& m);
void bind_factors(py::module_& m);
void bind_cuts(py::module_& m);
void bind_svmlight(py::module_& m);
void bind_probe(py::module_& m);

}  // namespace asyncopt::python
