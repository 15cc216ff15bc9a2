// Pushes and pulls of one worker at a time: under each sync the result equals stepping the tensors
// one after the other, and the counters match.
#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "asyncopt/push/apply.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

// Values for every hyperparameter of any rule.
Group usual_group(const Kernel& kernel) {
  static const std::pair<std::string_view, double> values[] = {
      {"lr", 0.1},    {"momentum", 0.9}, {"dampening", 0.2}, {"weight_decay", 0.1},
      {"beta1", 0.8}, {"beta2", 0.95},   {"eps", 1e-3},      {"decoupled_weight_decay", 1},
      {"rho", 0.9},   {"alpha", 0.9},    {"lr_decay", 0.5},  {"lambd", 0.01},
      {"t0", 1},      {"nesterov", 1},   {"maximize", 1}};
  Group group;
  for (std::size_t i = 0; i < kernel.hyper.size(); ++i)
    for (const auto& [name, value] : values)
      if (name == kernel.hyper[i]) group.hyper[i] = value;
  return group;
}

// A tensor in memory of its own, stepped by its kernel alone: what a push is compared with.
struct Plain {
  const Kernel& kernel;
  std::size_t n;
  std::vector<std::byte> param, slots[kMaxSlots];
  double scalars[kMaxScalars] = {};

  Plain(const Kernel& k, std::size_t elements, Numbers& numbers)
      : kernel(k), n(elements), param(n * k.param_bytes) {
    for (std::size_t i = 0; i < n; ++i) put(k.param_dtype, param.data(), i, numbers());
    for (std::size_t s = 0; s < k.slots.size(); ++s) {
      slots[s].resize(n * k.state_bytes);
      for (std::size_t i = 0; i < n; ++i) put(k.state_dtype, slots[s].data(), i, 0.5);
    }
    if (k.scalars.size() > 1) scalars[1] = 0.1;  // ASGD's eta: lr
    if (k.scalars.size() > 2) scalars[2] = 1;    // and mu
  }

  void step(const Group& group, const void* grad, std::size_t begin, std::size_t length) {
    alignas(16) std::byte coef[kMaxCoef];
    kernel.prepare(group.hyper, scalars, coef);
    Span span{param.data() + begin * kernel.param_bytes, grad, {}, length, 1};
    const std::size_t by_element = kernel.slots.size() - kernel.row_slots;
    for (std::size_t s = 0; s < kernel.slots.size(); ++s)
      span.slots[s] =
          slots[s].data() + (s < by_element ? begin : begin / length) * kernel.state_bytes;
    kernel.loops.racy(coef, span);
  }
  void step(const Group& group, const void* grad) {
    scalars[0] += 1;
    step(group, grad, 0, n);
  }

  void copy_to(const Store& store, std::size_t i) const {
    std::ranges::copy(param, store.param<std::byte>(i));
    for (std::size_t s = 0; s < kernel.slots.size(); ++s)
      std::ranges::copy(slots[s], store.slot<std::byte>(s, i));
    for (std::size_t s = 0; s < kernel.scalars.size(); ++s) store.scalars(i)[s] = scalars[s];
  }

  // The same bits, but where a bfloat16 was rounded the other way.
  void check_equals(const void* other_param, void* const* other_slots,
                    const double* other_scalars) const {
    const auto check = [this](std::string_view dtype, const void* mine, const void* other) {
      for (std::size_t i = 0; i < n; ++i) {
        const double a = get(dtype, mine, i), b = get(dtype, other, i);
        if (dtype == "bfloat16" ? !(std::abs(a - b) <= std::abs(a) / 127) : a != b)
          fail(__FILE__, __LINE__, "not what the kernel alone gives", a, b);
      }
    };
    check(kernel.param_dtype, param.data(), other_param);
    for (std::size_t s = 0; s < kernel.slots.size(); ++s)
      check(kernel.state_dtype, slots[s].data(), other_slots[s]);
    for (std::size_t s = 0; s < kernel.scalars.size(); ++s) CHECK_EQ(scalars[s], other_scalars[s]);
  }
  void check_equals(const Store& store, std::size_t i) const {
    void* other[kMaxSlots] = {};
    for (std::size_t s = 0; s < kernel.slots.size(); ++s) other[s] = store.slot<void>(s, i);
    check_equals(store.param<void>(i), other, store.scalars(i));
  }
};

std::vector<std::byte> gradient(const Kernel& kernel, std::size_t n, Numbers& numbers) {
  std::vector<std::byte> grad(n * kernel.param_bytes);
  for (std::size_t i = 0; i < n; ++i) put(kernel.param_dtype, grad.data(), i, numbers());
  return grad;
}

bool rounds(const Kernel& kernel) { return std::string_view(kernel.state_dtype) == "bfloat16"; }

// Three tensors of one rule, the middle one without a gradient in the first push.
void check_equals_kernel(const Kernel& kernel, const SyncInfo* sync, bool audit) {
  Numbers numbers(3);
  const std::size_t sizes[] = {49, 17, 200};
  std::vector<Plain> plain;
  std::vector<Store::Tensor> tensors;
  for (const std::size_t n : sizes) {
    plain.emplace_back(kernel, n, numbers);
    tensors.push_back({&kernel, n});
  }
  // Without a sync, the same data is stepped alone: blocks then hold addresses.
  const Store store(sync == nullptr ? "hogwild" : sync->name, 1, tensors);
  std::vector<Block> blocks = store.blocks;
  for (std::size_t i = 0; i < 3; ++i) plain[i].copy_to(store, i);
  if (sync == nullptr)
    for (Block& block : blocks) {
      const auto base = reinterpret_cast<std::uintptr_t>(store.segment.data());
      block.param += base;
      for (std::uintptr_t& slot : block.slots) slot += base;
      block.scalars += base;
    }
  Group group = usual_group(kernel);
  group.blocks = blocks;
  // Random rounding lets paths part: one step of it is compared.
  const std::uint32_t steps = rounds(kernel) ? 1 : 3;
  for (std::uint32_t t = 0; t < steps; ++t) {
    std::vector<std::byte> grads[3];
    for (std::size_t i = 0; i < 3; ++i) {
      grads[i] = gradient(kernel, sizes[i], numbers);
      blocks[i].grad = i == 1 && t == 0 ? nullptr : grads[i].data();
      if (blocks[i].grad != nullptr) plain[i].step(group, grads[i].data());
    }
    const Push request{.groups = {&group, 1}, .seed = t, .audit = audit};
    const PushResult result =
        sync == nullptr ? push_alone(request) : push(store.segment, 0, request);
    CHECK(!result.skipped);
    CHECK_EQ(result.version, sync == nullptr ? 0 : t + 1);
    for (std::size_t i = 0; i < 3; ++i) plain[i].check_equals(store, i);
  }
}

void check_every_kernel_and_sync() {
  for (const Kernel& kernel : kernels()) {
    const auto name =
        std::string(" ") + kernel.rule + " " + kernel.param_dtype + "/" + kernel.state_dtype;
    current_case = "alone" + name;
    check_equals_kernel(kernel, nullptr, false);
    for_each_sync([&](const SyncInfo& sync) {
      current_case += name;
      check_equals_kernel(kernel, &sync, false);
      check_equals_kernel(kernel, &sync, true);
    });
  }
}

// Groups have hyperparameters of their own, also when the steps before were the same.
void check_groups() {
  const Kernel& kernel = kernel_of("adam", "float64");
  for_each_sync([&](const SyncInfo& sync) {
    Numbers numbers(4);
    const Store store(sync.name, 1, {{&kernel, 20}, {&kernel, 30}});
    std::vector<Block> blocks = store.blocks;
    Group groups[2] = {usual_group(kernel), usual_group(kernel)};
    groups[1].hyper[0] = 0.7;  // lr
    std::vector<Plain> plain;
    std::vector<std::byte> grads[2];
    for (std::size_t i = 0; i < 2; ++i) {
      plain.emplace_back(kernel, blocks[i].n, numbers).copy_to(store, i);
      grads[i] = gradient(kernel, blocks[i].n, numbers);
      blocks[i].grad = grads[i].data();
      groups[i].blocks = {&blocks[i], 1};
    }
    for (int t = 0; t < 3; ++t) {
      push(store.segment, 0, {.groups = groups});
      for (std::size_t i = 0; i < 2; ++i) plain[i].step(groups[i], grads[i].data());
    }
    for (std::size_t i = 0; i < 2; ++i) plain[i].check_equals(store, i);
  });
}

// Gradients of some rows only: these are stepped, nothing else is touched.
void check_rows(const Kernel& kernel, const SyncInfo& sync, std::size_t width,
                const std::vector<std::int64_t>& rows) {
  constexpr std::size_t kRows = 11;
  Numbers numbers(5);
  Plain plain(kernel, kRows * width, numbers);
  const Store store(sync.name, 1, {{&kernel, plain.n}});
  plain.copy_to(store, 0);
  const std::vector<std::byte> grad = gradient(kernel, rows.size() * width, numbers);
  Block block = store.blocks[0];
  block.grad = grad.data();
  block.rows = rows.data();
  block.row_count = rows.size();
  block.width = width;
  Group group = usual_group(kernel);
  group.blocks = {&block, 1};
  push(store.segment, 0, {.groups = {&group, 1}});

  plain.scalars[0] = kernel.scalars.empty() ? 0 : 1;
  const Plain before = plain;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::ranges::copy(before.scalars, plain.scalars);  // each row is part of the same step
    plain.step(group, grad.data() + r * width * kernel.param_bytes,
               static_cast<std::size_t>(rows[r]) * width, width);
  }
  plain.check_equals(store, 0);
}

void check_every_kernel_by_rows() {
  static const std::int64_t kRow = 0;  // an address for no rows at all
  for (const Kernel& kernel : kernels())
    for_each_sync([&](const SyncInfo& sync) {
      current_case += std::string(" rows ") + kernel.rule + " " + kernel.param_dtype;
      check_rows(kernel, sync, 16, {7, 0, 10, 3});
      check_rows(kernel, sync, 1, {10, 2});
      check_rows(kernel, sync, 33, {5});
    });
  const Kernel& kernel = kernel_of("sgd_momentum", "float32");
  const Store store("hogwild", 1, {{&kernel, 12}});
  Block block = store.blocks[0];
  block.grad = &kRow;
  block.rows = &kRow;
  block.width = 4;
  Group group = usual_group(kernel);
  group.blocks = {&block, 1};
  push(store.segment, 0, {.groups = {&group, 1}});
  CHECK_EQ(*store.scalars(), 1);  // a push all the same
  CHECK(
      std::all_of(store.param<float>(), store.param<float>() + 12, [](float x) { return x == 0; }));
}

// Several threads step large tensors to the same bits as one.
void check_threads(const Kernel& kernel, const SyncInfo& sync, bool by_rows) {
  constexpr std::size_t width = 48;
  constexpr std::size_t rows_of_it = kParallel / width + 100;
  // Above the threshold and no multiple of anything; beside it a tensor of less than one chunk.
  const std::size_t n = by_rows ? 2 * rows_of_it * width : kParallel + 3 * kChunk + 37;
  const std::vector<Store::Tensor> tensors{{&kernel, n}, {&kernel, 1000}};
  Numbers numbers(6);
  const std::vector<std::byte> grads[] = {gradient(kernel, n, numbers),
                                          gradient(kernel, 1000, numbers)};
  std::vector<std::int64_t> rows(rows_of_it);
  for (std::size_t r = 0; r < rows.size(); ++r)
    rows[r] = static_cast<std::int64_t>(2 * ((r * 7919) % rows_of_it));

  const auto run = [&](const Store& store, std::size_t threads) {
    std::vector<Block> blocks = store.blocks;
    for (std::size_t i = 0; i < 2; ++i) blocks[i].grad = grads[i].data();
    if (by_rows) {
      blocks[0].rows = rows.data();
      blocks[0].row_count = rows.size();
      blocks[0].width = width;
    }
    Group group = usual_group(kernel);
    group.blocks = blocks;
    for (std::uint32_t t = 0; t < 2; ++t)
      push(store.segment, 0, {.groups = {&group, 1}, .threads = threads, .seed = t});
  };
  const Store alone(sync.name, 1, tensors);
  run(alone, 1);
  for (const std::size_t threads : {2u, 3u, 4u}) {
    const Store together(sync.name, 1, tensors);
    run(together, threads);
    CHECK(std::memcmp(alone.newest(), together.newest(), alone.config.data_bytes) == 0);
  }
}

void check_every_sync_with_threads() {
  for_each_sync([](const SyncInfo& sync) {
    for (const char* const rule : {"sgd", "adam", "asgd"}) {
      check_threads(kernel_of(rule, "float32"), sync, false);
      check_threads(kernel_of(rule, "float32"), sync, true);
    }
  });
}

// One bad value anywhere, and no byte of the store changes.
void check_skips_nonfinite() {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const Kernel& kernel = kernel_of("sgd_momentum", "float32");
  for_each_sync([&](const SyncInfo& sync) {
    for (const std::size_t n : {std::size_t{40}, kParallel + kChunk + 3})
      for (const std::size_t threads : {1u, 3u}) {
        const Store store(sync.name, 2, {{&kernel, 5}, {&kernel, n}});
        std::vector<float> small(5, 1.0f), large(n, 1.0f);
        std::vector<Block> blocks = store.blocks;
        blocks[0].grad = small.data();
        blocks[1].grad = large.data();
        Group group = usual_group(kernel);
        group.blocks = blocks;
        Push request{.groups = {&group, 1}, .threads = threads, .skip_nonfinite = true};
        CHECK_EQ(push(store.segment, 1, request).version, 1u);
        const std::vector<std::byte> before(store.newest(),
                                            store.newest() + store.config.data_bytes);
        std::uint64_t skipped = 0;
        for (const float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN()})
          for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
            large[at] = bad;
            const PushResult result = push(store.segment, 1, request);
            large[at] = 1;
            CHECK(result.skipped);
            CHECK_EQ(result.version, 1u);
            CHECK_EQ(store.segment.worker(1).skipped_nonfinite.load_relaxed(), ++skipped);
            CHECK(std::equal(before.begin(), before.end(), store.newest()));
          }
        CHECK_EQ(store.version(), 1u);
        CHECK_EQ(store.segment.worker(1).pushes.load_relaxed(), 1u);
        CHECK_EQ(store.segment.worker(0).skipped_nonfinite.load_relaxed(), 0u);
        // A missing gradient cannot be bad; an unchecked one is applied.
        blocks[1].grad = nullptr;
        CHECK(!push(store.segment, 1, request).skipped);
        blocks[1].grad = large.data();
        large[n - 1] = inf;
        request.skip_nonfinite = false;
        CHECK(!push(store.segment, 1, request).skipped);
        CHECK(!std::isfinite(store.param<float>(1)[n - 1]));
        CHECK(std::isfinite(store.param<float>(1)[0]));
      }
  });
  float w = 1, g = inf;
  Block block{.kernel = &kernel_of("sgd", "float32"),
              .param = reinterpret_cast<std::uintptr_t>(&w),
              .grad = &g,
              .n = 1};
  Group group = group_of(*block.kernel, {{"lr", 1}});
  group.blocks = {&block, 1};
  CHECK(push_alone({.groups = {&group, 1}, .skip_nonfinite = true}).skipped);
  CHECK_EQ(w, 1.0f);
}

// Pulls copy every byte, of whatever length, and give the version.
void check_pulls() {
  for_each_sync([](const SyncInfo& sync) {
    const Kernel& narrow_kernel = kernel_of("sgd", "bfloat16");
    const Kernel& wide_kernel = kernel_of("sgd", "float64");
    const Store store(sync.name, 1, {{&narrow_kernel, 37}, {&wide_kernel, 9}, {&wide_kernel, 0}});
    Numbers numbers(12);
    std::vector<Block> blocks = store.blocks;
    const std::vector<std::byte> grads[] = {gradient(narrow_kernel, 37, numbers),
                                            gradient(wide_kernel, 9, numbers)};
    for (std::size_t i = 0; i < 2; ++i) blocks[i].grad = grads[i].data();
    Group groups[2];
    for (std::size_t i = 0; i < 2; ++i) {
      groups[i] = group_of(*blocks[i].kernel, {{"lr", 1}});
      groups[i].blocks = {&blocks[i], 1};
    }
    for (std::uint64_t version = 1; version <= 3; ++version) {
      push(store.segment, 0, {.groups = groups});
      std::vector<std::byte> replica(37 * 2 + 8, std::byte{0x55});
      double other[9] = {};
      const PullBlock pulls[] = {{blocks[0].param, replica.data(), 37 * 2},
                                 {blocks[1].param, other, sizeof other},
                                 {blocks[2].param, nullptr, 0}};
      CHECK_EQ(pull(store.segment, 0, pulls), version);
      CHECK(std::memcmp(replica.data(), store.param<void>(0), 37 * 2) == 0);
      CHECK(std::memcmp(other, store.param<void>(1), sizeof other) == 0);
      for (std::size_t i = 37 * 2; i < replica.size(); ++i) CHECK(replica[i] == std::byte{0x55});
    }
  });
}

// Versions count the store's pushes; staleness, the others' pushes since the worker last looked.
void check_versions_and_staleness() {
  for_each_sync([](const SyncInfo& sync) {
    const Kernel& kernel = kernel_of("sgd_momentum", "float32");
    const Store store(sync.name, 3, {{&kernel, 20}});
    const std::vector<float> grad(20, 1.0f);
    Block block = store.blocks[0];
    block.grad = grad.data();
    Group group = usual_group(kernel);
    group.blocks = {&block, 1};
    std::uint64_t version = 0;
    std::vector<std::uint64_t> staleness[3];
    const auto pushes = [&](std::size_t worker, std::uint64_t expected) {
      const PushResult result = push(store.segment, worker, {.groups = {&group, 1}});
      CHECK(!result.skipped);
      CHECK_EQ(result.version, ++version);
      CHECK_EQ(result.staleness, expected);
      CHECK_EQ(store.version(), version);
      CHECK_EQ(*store.scalars(), static_cast<double>(version));
      staleness[worker].push_back(expected);
    };
    const auto pulls = [&](std::size_t worker) {
      float replica[20];
      const PullBlock one{block.param, replica, sizeof replica};
      CHECK_EQ(pull(store.segment, worker, {&one, 1}), version);
    };
    // A push is a look at the store in place; a replica only sees what it pulls.
    const auto either = [&sync](std::uint64_t in_place, std::uint64_t replica) {
      return sync.contract->replica ? replica : in_place;
    };
    pushes(0, 0);
    pushes(0, either(0, 1));
    pulls(1);
    pushes(1, 0);
    pushes(0, either(1, 3));
    pulls(0);
    pushes(0, 0);
    for (int i = 0; i < 100; ++i) pushes(1, either(i == 0 ? 2 : 0, static_cast<unsigned>(i) + 3));
    pushes(0, either(100, 101));

    for (std::size_t w = 0; w < 3; ++w) {
      const WorkerSlot& slot = store.segment.worker(w);
      CHECK_EQ(slot.pushes.load_relaxed(), staleness[w].size());
      std::uint64_t sum = 0;
      std::uint64_t buckets[kStalenessBuckets] = {};
      for (const std::uint64_t s : staleness[w]) {
        sum += s;
        ++buckets[staleness_bucket(s)];
      }
      CHECK_EQ(slot.staleness_sum.load_relaxed(), sum);
      for (std::size_t b = 0; b < kStalenessBuckets; ++b)
        CHECK_EQ(slot.staleness[b].load_relaxed(), buckets[b]);
      // One worker at a time has no contention.
      CHECK_EQ(slot.retries.load_relaxed() + slot.lost_updates.load_relaxed() +
                   slot.lost_state_updates.load_relaxed() + slot.lock_waits.load_relaxed() +
                   slot.lock_wait_ns.load_relaxed() + slot.repairs.load_relaxed(),
               0u);
    }
  });
}

// A push in parts equals a whole push, and is counted with its last part.
void check_parts() {
  const Kernel& kernel = kernel_of("adam", "float64");
  for_each_sync([&](const SyncInfo& sync) {
    const Store store(sync.name, 2, {{&kernel, 20}, {&kernel, 30}});
    std::vector<Block> blocks = store.blocks;
    std::vector<Plain> plain;
    std::vector<std::byte> grads[2];
    Numbers numbers(7);
    Group group = usual_group(kernel);
    for (std::size_t i = 0; i < 2; ++i) {
      plain.emplace_back(kernel, blocks[i].n, numbers).copy_to(store, i);
      grads[i] = gradient(kernel, blocks[i].n, numbers);
    }
    const auto part_of = [&](std::size_t i, Part part) {
      blocks[i].grad = grads[i].data();
      group.blocks = {&blocks[i], 1};
      return push(store.segment, 0, {.groups = {&group, 1}, .part = part});
    };
    if (!sync.contract->in_parts) {
      CHECK_THROWS(std::invalid_argument, "got a part", part_of(0, Part::some));
      CHECK_EQ(store.segment.version(), 0u);
      return;
    }
    for (std::uint64_t t = 0; t < 3; ++t) {
      CHECK_EQ(part_of(1, Part::some).version, 2 * t);
      plain[1].step(group, grads[1].data());
      plain[1].check_equals(store, 1);
      group.blocks = {};
      push(store.segment, 1, {.groups = {&group, 1}});  // of another worker, in between
      CHECK_EQ(store.segment.worker(0).pushes.load_relaxed(), t);
      const PushResult last = part_of(0, Part::last);
      CHECK_EQ(last.version, 2 * (t + 1));
      CHECK_EQ(last.staleness, 1u);
      plain[0].step(group, grads[0].data());
    }
    for (std::size_t i = 0; i < 2; ++i) plain[i].check_equals(store, i);
    CHECK_EQ(store.segment.worker(0).staleness_sum.load_relaxed(), 3u);
  });
}

}  // namespace

int main() {
  set_deadline();
  check_every_kernel_and_sync();
  check_groups();
  check_every_kernel_by_rows();
  check_every_sync_with_threads();
  check_skips_nonfinite();
  check_pulls();
  check_versions_and_staleness();
  check_parts();
}
