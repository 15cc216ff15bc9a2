// A worker's writes to its replica: under every sync, exactly the changed elements are in the store
// before the gradients are applied.
#include <string>
#include <vector>

#include "asyncopt/push/apply.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr std::size_t kSize = 300;  // over stripes, and no multiple of one

struct Case {
  const Kernel& kernel;
  Store store;
  Group group;
  std::vector<Block> blocks;
  std::vector<std::byte> pulled, written;
  std::vector<double> expected;

  Case(const Kernel& k, const SyncInfo& sync, double timeout = 60)
      : kernel(k),
        store(sync.name, 2, {{&k, kSize}, {&k, 17}}, timeout),
        group(group_of(k, {{"lr", 1.0}})),
        blocks(store.blocks),
        pulled(kSize * k.param_bytes),
        written(kSize * k.param_bytes),
        expected(kSize) {
    for (Block& block : blocks) block.width = 1;
    group.blocks = blocks;
    // Others have changed every element since the pull; every third was written.
    for (std::size_t i = 0; i < kSize; ++i) {
      put(k.param_dtype, pulled.data(), i, 1);
      put(k.param_dtype, written.data(), i, i % 3 == 0 ? 5 : 1);
      put(k.param_dtype, store.param<std::byte>(), i, 2);
      expected[i] = i % 3 == 0 ? 5 : 2;
    }
  }
  ReplicaWrite write(bool knows_pulled = true) const {
    return {&blocks[0], written.data(), knows_pulled ? pulled.data() : nullptr};
  }
  void check() const {
    for (std::size_t i = 0; i < kSize; ++i)
      CHECK_EQ(get(kernel.param_dtype, store.param<std::byte>(), i), expected[i]);
    for (std::size_t i = 0; i < 17; ++i)
      CHECK_EQ(get(kernel.param_dtype, store.param<std::byte>(1), i), 0u);
  }
};

void check_with_gradients(const Kernel& kernel, const SyncInfo& sync) {
  Case c(kernel, sync);
  std::vector<std::byte> grad(kSize * kernel.param_bytes);
  for (std::size_t i = 0; i < kSize; ++i) put(kernel.param_dtype, grad.data(), i, -1);
  c.blocks[0].grad = grad.data();
  const ReplicaWrite write = c.write();
  Push request{.groups = {&c.group, 1}};
  request.writes = {&write, 1};
  CHECK_EQ(push(c.store.segment, 0, request).version, 1u);
  for (double& value : c.expected) value += 1;
  c.check();
}

void check_alone(const Kernel& kernel, const SyncInfo& sync, bool knows_pulled) {
  Case c(kernel, sync);
  const ReplicaWrite write = c.write(knows_pulled);
  const Push request{.groups = {}, .writes = {&write, 1}, .writes_only = true};
  CHECK_EQ(push(c.store.segment, 0, request).version, 1u);
  if (!knows_pulled)
    for (std::size_t i = 0; i < kSize; ++i) c.expected[i] = i % 3 == 0 ? 5 : 1;
  c.check();
  // A version that is no push, and that makes no gradient of the worker older.
  const WorkerSlot& slot = c.store.segment.worker(0);
  CHECK_EQ(slot.pushes.load_relaxed(), 0u);
  CHECK_EQ(slot.pulled.load(std::memory_order_relaxed), 1u);
  CHECK_EQ(c.store.version(), 1u);
}

// A row-wise rule locks where a row begins.
void check_rowwise(const SyncInfo& sync) {
  const Kernel& kernel = kernel_of("adagrad_rowwise", "float32");
  Case c(kernel, sync);
  c.blocks[0].width = 20;
  const ReplicaWrite write = c.write();
  push(c.store.segment, 0, {.groups = {}, .writes = {&write, 1}, .writes_only = true});
  c.check();
}

// A worker that adds to all elements loses nothing of it to one that writes some.
void check_beside_pushes(const SyncInfo& sync) {
  const Kernel& kernel = kernel_of("sgd", "float32");
  const std::uint64_t pushes = often(2000, 300);
  Case c(kernel, sync);
  const std::vector<float> grad(kSize, -1);
  run_threads(2, [&](std::size_t worker) {
    for (std::uint64_t i = 0; i < pushes; ++i) {
      if (worker == 0) {
        const ReplicaWrite write = c.write();
        push(c.store.segment, 0, {.groups = {}, .writes = {&write, 1}, .writes_only = true});
      } else {
        Block block = c.store.blocks[0];
        block.grad = grad.data();
        Group group = c.group;
        group.blocks = {&block, 1};
        push(c.store.segment, 1, {.groups = {&group, 1}});
      }
    }
  });
  for (std::size_t i = 0; i < kSize; ++i) {
    const float value = c.store.param<float>()[i];
    if (i % 3 == 0)
      CHECK(sync.contract->may_lose || (value >= 5 && value <= 5 + static_cast<float>(pushes)));
    else
      CHECK_EQ(value, 2 + static_cast<float>(pushes));
  }
}

}  // namespace

int main() {
  set_deadline();
  for_each_sync([](const SyncInfo& sync) {
    for (const char* const dtype : {"float32", "float64", "bfloat16"}) {
      const Kernel& kernel = kernel_of("sgd", dtype);
      check_with_gradients(kernel, sync);
      check_alone(kernel, sync, true);
      check_alone(kernel, sync, false);
    }
    check_rowwise(sync);
    check_beside_pushes(sync);
  });
  return 0;
}
