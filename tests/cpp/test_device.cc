// Steps on a device against the engine's own, bit for bit, by the kernels that nvcc compiles.
#include <optional>
#include <string>

#include "asyncopt/device/stepper.h"
#include "host_device.h"
#include "references.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// Tensors and state for a step, in private memory; copies have the same values.
struct Model {
  struct Tensor {
    const Kernel* kernel;
    std::size_t n;
    std::size_t misaligned = 0;  // elements that arrays begin past an aligned address
    std::size_t group = 0;
    struct alignas(64) Line {
      std::byte bytes[64];
    };
    std::vector<Line> memory;
    std::optional<std::size_t> only{};  // the array that is misaligned, if not all
    std::size_t array_lines() const { return ((n + misaligned) * sizeof(double) + 63) / 64; }
    // The parameter, the gradient, the slots, the scalars.
    std::byte* array(std::size_t a, std::size_t element_bytes) {
      const bool moves = only.value_or(a) == a;
      return memory[a * array_lines()].bytes + (moves ? misaligned * element_bytes : 0);
    }
    std::byte* param() { return array(0, kernel->param_bytes); }
    std::byte* grad() { return array(1, kernel->param_bytes); }
    std::byte* slot(std::size_t k) { return array(2 + k, kernel->state_bytes); }
    double* scalars() { return reinterpret_cast<double*>(array(5, 0)); }
    bool has_grad = true;
  };
  std::vector<Tensor> tensors;
  std::vector<std::array<double, kMaxHyper>> hyper;  // of each group

  void add(const Kernel& kernel, std::size_t n, std::size_t misaligned = 0, std::size_t group = 0,
           std::optional<std::size_t> only = {}) {
    Tensor& t = tensors.emplace_back(Tensor{&kernel, n, misaligned, group, {}, only});
    t.memory.resize(5 * t.array_lines() + 1);
    Numbers numbers(static_cast<std::uint32_t>(tensors.size()));
    for (std::size_t i = 0; i < n; ++i) {
      put(kernel.param_dtype, t.param(), i, numbers());
      for (std::size_t k = 0; k < kernel.slots.size(); ++k)
        put(kernel.state_dtype, t.slot(k), i, numbers.positive());
    }
    for (std::size_t k = 0; k < kernel.scalars.size(); ++k) t.scalars()[k] = k == 0 ? 2 : 0.5;
  }
  void draw(std::uint32_t seed) {
    Numbers numbers(seed);
    for (Tensor& t : tensors)
      for (std::size_t i = 0; i < t.n; ++i) put(t.kernel->param_dtype, t.grad(), i, numbers());
  }

  std::vector<Block> blocks;
  std::vector<Group> groups;
  Push push(std::uint32_t seed) {
    blocks.clear();
    groups.clear();
    for (Tensor& t : tensors) {
      Block& block = blocks.emplace_back();
      block.kernel = t.kernel;
      block.param = reinterpret_cast<std::uintptr_t>(t.param());
      for (std::size_t k = 0; k < t.kernel->slots.size(); ++k)
        block.slots[k] = reinterpret_cast<std::uintptr_t>(t.slot(k));
      block.scalars = reinterpret_cast<std::uintptr_t>(t.scalars());
      block.n = t.n;
      block.grad = t.has_grad ? t.grad() : nullptr;
    }
    std::size_t at = 0;
    for (std::size_t g = 0; g < hyper.size(); ++g) {
      Group& group = groups.emplace_back();
      std::copy(hyper[g].begin(), hyper[g].end(), group.hyper);
      const std::size_t begin = at;
      while (at < tensors.size() && tensors[at].group == g) ++at;
      group.blocks = std::span(blocks).subspan(begin, at - begin);
    }
    CHECK_EQ(at, tensors.size());
    return {.groups = groups, .seed = seed};
  }
};

std::array<double, kMaxHyper> hyper_of(const Kernel& kernel, std::size_t which) {
  std::array<double, kMaxHyper> all{};
  for (std::size_t h = 0; h < kernel.hyper.size(); ++h) {
    const std::vector<double>& values = kValues.at(kernel.hyper[h]);
    all[h] = values[which % values.size()];
  }
  return all;
}

void check_same(Model& a, Model& b) {
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    Model::Tensor &x = a.tensors[i], &y = b.tensors[i];
    const Kernel& k = *x.kernel;
    CHECK_EQ(std::memcmp(x.param(), y.param(), x.n * k.param_bytes), 0);
    for (std::size_t s = 0; s < k.slots.size(); ++s)
      CHECK_EQ(std::memcmp(x.slot(s), y.slot(s), x.n * k.state_bytes), 0);
    CHECK_EQ(std::memcmp(x.scalars(), y.scalars(), k.scalars.size() * sizeof(double)), 0);
  }
}

void check_same_gradients(Model a, Model& b) {
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    Model::Tensor &x = a.tensors[i], &y = b.tensors[i];
    CHECK_EQ(std::memcmp(x.grad(), y.grad(), x.n * x.kernel->param_bytes), 0);
  }
}

void step_alone(Model& model, std::uint32_t seed, bool skip_nonfinite = false) {
  Push push = model.push(seed);
  push.skip_nonfinite = skip_nonfinite;
  push_alone(push);
}

// The same step by the engine's own loops and on the device: the same bits.
void step_both(Model& here, Model& there, device::Stepper& stepper, std::uint32_t seed,
               bool atomic = false) {
  here.draw(seed);
  there.draw(seed);
  step_alone(here, seed);
  stepper.step({.push = there.push(seed), .atomic = atomic});
  check_same(here, there);
}

// Every rule and dtype, sizes around the vectors and the chunks, aligned and not, in two groups.
void check_every_kernel() {
  for (const Kernel& kernel : kernels()) {
    if (kernel.row_slots > 0) continue;
    for (const bool atomic : {false, true})
      for (const std::size_t which : {0u, 1u}) {
        current_case = std::string(kernel.rule) + " " + kernel.param_dtype + "/" +
                       kernel.state_dtype + (atomic ? " atomic" : " hogwild");
        Model here;
        here.hyper = {hyper_of(kernel, which), hyper_of(kernel, which + 1)};
        for (const std::size_t misaligned : {0u, 1u})
          for (const std::size_t n : {0u, 1u, 3u, 8u, 17u, 4095u, 4096u, 4100u, 12289u})
            here.add(kernel, n, misaligned, misaligned);
        Model there = here;
        HostDevice device;
        {
          device::Stepper stepper(device);
          for (std::uint32_t t = 0; t < 3; ++t) step_both(here, there, stepper, 100 + t, atomic);
          CHECK_EQ(device.uploads, 2u);  // the clock, the table
          CHECK_EQ(device.launches[1], 3u);
          CHECK_EQ(device.launches[atomic ? 3 : 2], 3u);
        }
        CHECK_EQ(device.memory.size(), 0u);
      }
  }
}

Model many(std::size_t tensors, const char* rule = "adam", const char* dtype = "float32") {
  const Kernel& kernel = kernel_of(rule, dtype);
  Model model;
  model.hyper = {hyper_of(kernel, 0)};
  for (std::size_t i = 0; i < tensors; ++i) model.add(kernel, 64);
  return model;
}

// A single misaligned array is enough to disable vectors.
void check_alignment() {
  current_case = "alignment";
  for (const char* const dtype : {"float32", "bfloat16"}) {
    const Kernel& kernel = kernel_of("adam_amsgrad", dtype);
    Model here;
    here.hyper = {hyper_of(kernel, 1)};
    for (std::size_t array = 0; array < 5; ++array) here.add(kernel, 100, 1, 0, array);
    Model there = here;
    HostDevice device;
    device::Stepper stepper(device);
    step_both(here, there, stepper, 1);
  }
}

// Two launches for 200 tensors, and a new table only if an address or a size has changed.
void check_tables() {
  current_case = "tables";
  Model model = many(200);
  HostDevice device;
  device::Stepper stepper(device);
  const auto uploads = [&](std::uint32_t seed) {
    const std::size_t before = device.uploads;
    stepper.step({.push = model.push(seed)});
    return device.uploads - before;
  };
  model.draw(1);
  CHECK_EQ(uploads(1), 1u);
  CHECK_EQ(device.launches[1] + device.launches[2], 2u);
  const std::size_t whole = device.uploaded_bytes - sizeof(device::Clock);
  CHECK_EQ(uploads(2), 0u);
  model.hyper[0][0] = 0.5;  // a schedule
  CHECK_EQ(uploads(3), 0u);

  // Addresses that alternate are kept; so are those of some steps before.
  Model other = model;
  std::swap(model.tensors[7].memory, other.tensors[7].memory);
  CHECK_EQ(uploads(4), 1u);
  std::swap(model.tensors[7].memory, other.tensors[7].memory);
  CHECK_EQ(uploads(5), 0u);
  std::swap(model.tensors[7].memory, other.tensors[7].memory);
  CHECK_EQ(uploads(6), 0u);

  // Tensors come and go; where only addresses change, chunks are not sent again.
  model.tensors[3].has_grad = false;
  CHECK_EQ(uploads(7), 1u);
  for (std::uint32_t i = 0; i < 8; ++i) {
    model.tensors[i + 10].memory = std::vector<Model::Tensor::Line>(model.tensors[i + 10].memory);
    CHECK_EQ(uploads(8 + i), 1u);
  }
  const std::size_t before = device.uploaded_bytes;
  model.tensors[30].memory = std::vector<Model::Tensor::Line>(model.tensors[30].memory);
  CHECK_EQ(uploads(16), 1u);
  CHECK(device.uploaded_bytes - before < whole);
  CHECK_EQ(device.uploaded_bytes - before, 199 * sizeof(device::Tensor));
  CHECK_EQ(uploads(17), 0u);

  // Nothing to do is no launch.
  for (Model::Tensor& t : model.tensors) t.has_grad = false;
  const std::size_t launches = device.launches[1];
  CHECK_EQ(uploads(18), 0u);
  CHECK_EQ(device.launches[1], launches);
}

// Kernels that differ inside one optimizer, and more groups than one launch takes.
void check_mixed() {
  current_case = "mixed";
  Model here;
  const Kernel* const some[] = {&kernel_of("adam", "float32"), &kernel_of("adam", "bfloat16"),
                                &kernel_of("adam", "float32", "bfloat16")};
  for (std::size_t g = 0; g < 75; ++g) {
    here.hyper.push_back(hyper_of(*some[0], g));
    here.hyper.back()[0] = 0.01 * static_cast<double>(g + 1);
    if (g % 7 == 3) continue;  // a group without tensors
    here.add(*some[g % 3], 100 + g, g % 2, g);
    here.add(*some[(g + 1) % 3], 5, 0, g);
    here.tensors.back().has_grad = g % 5 != 0;
  }
  Model there = here;
  HostDevice device;
  device::Stepper stepper(device);
  for (std::uint32_t t = 0; t < 3; ++t) step_both(here, there, stepper, 7 + t);
  CHECK_EQ(device.launches[2], 3u * 3);
  CHECK_EQ(device.launches[1], 3u * 3 * 3);  // 32, 32 and 11 groups
}

// The step's part of GradScaler: gradients are left unscaled, and found_inf prevents all writes.
void check_scaling(const char* dtype, bool atomic) {
  current_case = std::string("scaling ") + dtype + (atomic ? " atomic" : " hogwild");
  const Kernel& kernel = kernel_of("adam", dtype);
  Model here;
  here.hyper = {hyper_of(kernel, 0)};
  for (const std::size_t n : {64u, 5u, 4100u}) here.add(kernel, n, n == 5 ? 1 : 0);
  Model there = here;
  HostDevice device;
  device::Stepper stepper(device);
  float scale = 8, found = 0;
  for (std::uint32_t t = 0; t < 4; ++t) {
    here.draw(t);
    there.draw(t);
    for (Model::Tensor& tensor : there.tensors)
      for (std::size_t i = 0; i < tensor.n; ++i)
        put(dtype, tensor.grad(), i, get(dtype, tensor.grad(), i) * 8);
    const Model scaled = there;
    found = t == 2 ? 1 : 0;
    if (t != 2) step_alone(here, t);
    stepper.step(
        {.push = there.push(t), .atomic = atomic, .grad_scale = &scale, .found_inf = &found});
    check_same(here, there);
    check_same_gradients(t == 2 ? scaled : here, there);
  }
  CHECK_EQ(stepper.skipped(), 1u);
}

// A learning rate on the device; it may change between two steps without the host.
void check_rates() {
  current_case = "rates";
  Model here = many(3);
  Model there = here;
  HostDevice device;
  device::Stepper stepper(device);
  float narrow = 0;
  double wide = 0;
  for (std::uint32_t t = 0; t < 4; ++t) {
    here.draw(t);
    there.draw(t);
    narrow = 0.25F / static_cast<float>(t + 1);
    wide = narrow;
    const device::Rate rate =
        t % 2 == 0 ? device::Rate{&narrow, sizeof narrow} : device::Rate{&wide, sizeof wide};
    here.hyper[0][0] = wide;
    there.hyper[0][0] = 1e9;  // not read
    step_alone(here, t);
    stepper.step({.push = there.push(t), .rates = {&rate, 1}});
    check_same(here, there);
  }
}

// An infinity or NaN anywhere in any gradient, and the whole step is left out and counted.
void check_nonfinite() {
  for (const char* const dtype : {"float32", "float64", "bfloat16"}) {
    current_case = std::string("nonfinite ") + dtype;
    const Kernel& kernel = kernel_of("sgd_momentum", dtype);
    Model here;
    here.hyper = {hyper_of(kernel, 0)};
    for (const std::size_t n : {1u, 4097u, 37u}) here.add(kernel, n, n == 37 ? 1 : 0);
    Model there = here;
    HostDevice device;
    device::Stepper stepper(device);
    std::uint32_t t = 0;
    std::uint64_t skipped = 0;
    for (const double bad :
         {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN(), 1.0})
      for (const auto& [tensor, at] :
           {std::pair{0u, 0u}, {1u, 0u}, {1u, 4095u}, {1u, 4096u}, {2u, 0u}, {2u, 36u}}) {
        ++t;
        for (Model* const model : {&here, &there}) {
          model->draw(t);
          put(dtype, model->tensors[tensor].grad(), at, bad);
        }
        step_alone(here, t, true);
        Push push = there.push(t);
        push.skip_nonfinite = true;
        stepper.step({.push = push});
        check_same(here, there);
        if (bad != 1.0) ++skipped;
        CHECK_EQ(stepper.skipped(), skipped);
      }
    CHECK_EQ(device.launches[0], t);
  }
}

// Tensors without elements, of a kernel of their own: there is nothing to check, and the step
// counts.
void check_empty() {
  current_case = "empty";
  Model here;
  here.hyper = {hyper_of(kernel_of("adam", "float32"), 0)};
  here.add(kernel_of("adam", "float32"), 7);
  here.add(kernel_of("adam", "float64"), 0);
  Model there = here;
  HostDevice device;
  device::Stepper stepper(device);
  for (Model* const model : {&here, &there}) model->draw(1);
  step_alone(here, 1, true);
  Push push = there.push(1);
  push.skip_nonfinite = true;
  stepper.step({.push = push});
  check_same(here, there);
}

// A captured step runs when it is replayed, counts its steps and rounds by new random numbers; what
// it reads is written once, whatever other steps do in between.
void check_capture() {
  current_case = "capture";
  Model here = many(3, "adam", "bfloat16");
  Model there = here;
  HostDevice device;
  device::Stepper stepper(device);
  step_both(here, there, stepper, 50);
  device.capturing = true;
  stepper.step({.push = there.push(51)});
  device.capturing = false;
  check_same(here, there);
  for (std::uint32_t t = 0; t < 3; ++t) {
    // Steps so far, the replayed ones too: 1 + 7 * t; those not replayed: 1 + 6 * t.
    step_alone(here, 51 + 7 * t);
    device.replay();
    check_same(here, there);
    std::vector<Model> others(5, there);  // each at other addresses
    for (Model& other : others) stepper.step({.push = other.push(9)});
    step_alone(here, 80 + t + 1);
    stepper.step({.push = there.push(80)});
    check_same(here, there);
  }
}

// A failure names the call and leaves a stepper that works.
void check_errors() {
  current_case = "errors";
  Model here = many(3);
  Model there = here;
  HostDevice device;
  device.failing = "allocate";
  CHECK_THROWS(device::DeviceError, "host:0: allocate: hostErrorMadeUp, as told",
               const device::Stepper made(device));
  device.failing = "upload";
  CHECK_THROWS(device::DeviceError, "host:0: upload: hostErrorMadeUp",
               const device::Stepper made(device));
  CHECK_EQ(device.memory.size(), 0u);
  device::Stepper stepper(device);
  here.draw(1);
  there.draw(1);
  for (const char* const call : {"allocate", "upload", "prepare"}) {
    device.failing = call;
    CHECK_THROWS(device::DeviceError, call, stepper.step({.push = there.push(1)}));
    check_same(here, there);
  }
  step_both(here, there, stepper, 1);

  // The result of one step's check is not reported for the next step.
  Push push = there.push(2);
  push.skip_nonfinite = true;
  there.draw(2);
  put("float32", there.tensors[0].grad(), 0, std::numeric_limits<double>::infinity());
  device.failing = "prepare";
  CHECK_THROWS(device::DeviceError, "prepare", stepper.step({.push = push}));
  for (Model* const model : {&here, &there}) model->draw(2);
  step_alone(here, 2, true);
  stepper.step({.push = push});
  check_same(here, there);
  CHECK_EQ(stepper.skipped(), 0u);
}

}  // namespace

int main() {
  set_deadline();
  check_every_kernel();
  check_alignment();
  check_tables();
  check_mixed();
  for (const char* const dtype : {"float32", "float64", "bfloat16"})
    for (const bool atomic : {false, true}) check_scaling(dtype, atomic);
  check_rates();
  check_nonfinite();
  check_empty();
  check_capture();
  check_errors();
}
