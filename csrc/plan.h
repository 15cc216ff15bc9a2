// A plan: what a torch optimizer's step needs to know about its tensors, kept between steps, so
// that a step reads gradients, checks that nothing else has changed, and calls the engine.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "asyncopt/device/stepper.h"
#include "asyncopt/push.h"
#include "dlpack.h"
#include "replica.h"

namespace asyncopt::python {

namespace py = pybind11;

// Where a plan's tensors live.
struct Target {
  Segment segment;
  std::size_t worker;
  bool replica;
  bool watched;             // whether user code may write to the replica
  Unfinished unfinished{};  // what a LockTimeout left of the last push
};

// A device that tensors lie on, and the steps there. `type` and `id` are DLPack's.
struct DeviceTarget {
  device::Stepper stepper;
  std::int32_t type, id;
  bool atomic;
};

// GradScaler's numbers, on the device.
struct Scaling {
  const float* grad_scale = nullptr;
  const float* found_inf = nullptr;
};

// Writes to a replica on a device: of each parameter its index, and where on the host lie, in its
// memory order, its values as they were written and as they were pulled.
using Writes = std::vector<std::tuple<std::size_t, std::uintptr_t, std::uintptr_t>>;

// How to push: optimizer.param_groups, optimizer.state, a tuple of numbers per group, threads,
// seed, audit, whether to skip what is not finite. (asyncopt/optim/apart.py)
using How = std::tuple<py::list, py::dict, py::list, std::size_t, std::uint32_t, bool, bool>;

// True if torch's negative bit may be set on a tensor without gaps. The bit comes with the
// imaginary part of a conjugate, whose elements lie two apart: where there are several, they have
// gaps.
// (`torch._neg_view`, which is private, sets it on anything, and is not looked for.)
inline bool may_be_negated(const dlpack::Tensor& tensor) { return dlpack::elements(tensor) == 1; }
// True if it is set: memory then holds the negatives of the values. DLPack does not say so.
bool is_negated(PyObject* tensor);

class Plan {
 public:
  // Over a store, on a device, or, with neither, alone in host memory.
  explicit Plan(std::unique_ptr<Target> target, std::unique_ptr<DeviceTarget> device = nullptr);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Starts a group; tensors added next belong to it.
  void add_group();
  // `param_at`, `slots_at`, `scalars_at`: byte offsets into the store, or addresses alone. `state`
  // is the dict that optimizer.state holds for `param`, `entries` the objects that it must hold.
  // `local`: the tensor whose memory is written: `param` itself, or this process's part of it.
  // `book_at`: of its book, if it has one.
  void add_tensor(std::size_t kernel, py::object param, py::object local, py::object state,
                  py::tuple entry_names, py::tuple entries, std::uintptr_t param_at,
                  const std::vector<std::uintptr_t>& slots_at, std::uintptr_t scalars_at,
                  std::optional<std::uintptr_t> book_at);
  // From now on a gradient of a parameter that does not require one is reported as kOddGradient:
  // a kept gradient of a parameter that was frozen must be checked before it is applied.
  void keep_gradients() { keeps_gradients_ = true; }

  // What a step returns instead of the number of tensors that it updated. In all cases nothing was
  // written. kStale: the optimizer's groups or state are no longer those of the plan.
  // kOddGradient: a tensor or gradient is not as the kernels need it.
  static constexpr int kStale = -1;
  static constexpr int kOddGradient = -2;
  static constexpr int kSkipped = -3;

  // One step. `grads` overrides the tensors' own .grad.
  int step(const How& how, const py::object& grads);
  // The same with gradients of the caller's, one per tensor or None; a replica is not refreshed.
  int push(const How& how, const py::list& grads, Part part, const Writes& writes);
  // Brings writes to the store without a step, if there are any: the caller's, or those to a
  // replica since its last pull. Returns whether there were.
  bool publish(const Writes& writes);
  // The launching process has moved memory: where parameters are now is no write.
  void follow_memory();
  // Goes on from what the plan before it has noted of writes to the replica.
  void continue_from(const Plan& before);
  // Whether gradients as `push` takes them are all finite.
  bool is_finite(const py::list& grads);
  // The same on a device, for GradScaler: gradients are divided by `grad_scale`, and nothing is
  // done where `found_inf` is not 0. Both are None or a float32 number on the device. Gradients are
  // left divided.
  int step_scaled(const How& how, const py::object& grads, const py::object& grad_scale,
                  const py::object& found_inf);
  // Of steps on a device, those that were skipped. Waits for it.
  std::uint64_t skipped();
  // A push that touches only some rows of tensor `index`; rows and values are checked by the
  // caller.
  int step_rows(const How& how, std::size_t index, std::uintptr_t rows, std::size_t row_count,
                std::uintptr_t values);
  // No step: rows of tensor `index`, or of all tensors, are paid what they owe. `rows`: address and
  // number of their indices, if not all. Returns kStale, kOddGradient or 0.
  int catch_up(const How& how, std::optional<std::size_t> index,
               std::optional<std::pair<std::uintptr_t, std::size_t>> rows);
  // True if the groups hold the plan's parameters in the layout that the plan has, and their
  // gradients are still `grads`, at these addresses. Where `grads` has None, there must be no
  // gradient, and the parameter must not require one.
  bool has_gradients(const py::list& groups, const py::list& grads,
                     const py::list& addresses) const;
  // Refreshes a replica's parameters and state from one version; returns that version. Writes to
  // the replica that were not pushed stay.
  std::uint64_t pull();
  // Copies some parameters of one pull to addresses of the caller's, in the tensors' memory order;
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
    const PyGetSetDef* grad;  // the C function behind .grad; null where a subclass has its own
    bool sparse = false;      // whether its last gradient was

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
  std::vector<Write> located(const Writes& writes) const;
  bool run(const Push& push, bool refresh = true, const Scaling& scaling = {});
  std::uint64_t pull_replica(std::span<const PullBlock> state = {});
  bool run_shared(const Push& push, bool refresh);

  std::unique_ptr<Target> target_;
  std::unique_ptr<DeviceTarget> device_;
  std::vector<device::Rate> rates_;  // of the groups
  const dlpack::ExchangeApi* api_;
  std::vector<Tensor> tensors_;
  std::vector<Block> blocks_;
  std::vector<PullBlock> pulls_;        // the parameters, which a step refreshes
  std::vector<PullBlock> state_pulls_;  // the state, which only pull() refreshes
  std::optional<Replica> replica_;      // the parameters, where user code may write to them
  std::vector<Group> groups_;
  std::vector<std::size_t> group_sizes_;
  std::vector<py::object> held_;  // gradients in use while the GIL is released
  int updated_ = 0;               // tensors that have one
  bool keeps_gradients_ = false;
  bool owes_refresh_ = false;  // the last step's push was applied, its pull timed out
  bool is_torn_ = false;       // so did the last pull, in the middle
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
