// Walks over a push: steps counted, coefficients prepared, large tensors cut into chunks for
// several threads. What is done with each range is the sync's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <vector>

#include "asyncopt/parallel.h"
#include "asyncopt/push.h"
#include "asyncopt/rows.h"

namespace asyncopt {

// Chunks large enough that handing one out (about 100 ns) vanishes in updating it (10 us and more).
inline constexpr std::size_t kChunk = std::size_t{1} << 15;

struct Coefficients {
  alignas(16) std::byte bytes[kMaxCoef] = {};
};

// A tensor ready to be updated.
struct Task {
  const Loops* loops;
  const std::byte* coef;
  std::size_t param_bytes, state_bytes, element_slots, row_slots;
  std::size_t width;      // elements in a row
  std::uintptr_t offset;  // of the parameter in the segment's data
  Span span;              // all of it
  const Block* block;
  RowOrder rows;  // of a gradient of some rows only

  // Whether rows are updated one after the other, not ranges of elements.
  bool is_by_rows() const { return block->rows != nullptr || row_slots > 0; }
  // How many of either.
  std::size_t count() const {
    if (block->rows != nullptr) return rows.size();
    return row_slots > 0 ? span.n / width : span.n;
  }

  // Elements [begin, begin + n) of `whole`.
  Span part(const Span& whole, std::size_t begin, std::size_t n) const {
    Span some = whole;
    some.param = static_cast<std::byte*>(whole.param) + begin * param_bytes;
    some.grad = static_cast<const std::byte*>(whole.grad) + begin * param_bytes;
    const auto slot = [&](std::size_t k, std::size_t i) {
      some.slots[k] = static_cast<std::byte*>(whole.slots[k]) + i * state_bytes;
    };
    for (std::size_t k = 0; k < element_slots; ++k) slot(k, begin);
    for (std::size_t k = 0; k < row_slots; ++k) slot(element_slots + k, begin / width);
    some.n = n;
    some.seed = noise(whole.seed, static_cast<std::uint32_t>(begin));
    return some;
  }
};

// Counts the step and prepares the coefficients. Tensors mostly agree in their scalars, so that the
// coefficients of the tensor before can be kept: two calls of pow saved per tensor.
class Preparer {
 public:
  explicit Preparer(const Push& push) : seed_(push.seed) {}

  void operator()(const Group& group, const Block& block, std::byte* base, Task& task) {
    const Kernel& k = *block.kernel;
    const auto at = [base](std::uintptr_t offset) {
      return reinterpret_cast<std::byte*>(base) + offset;
    };
    double scalars[kMaxScalars] = {};
    if (!k.scalars.empty()) {
      auto* const shared = reinterpret_cast<double*>(at(block.scalars));
      // Counted by every worker and never lost, so that bias corrections keep their meaning.
      scalars[0] = std::atomic_ref(shared[0]).fetch_add(1.0, std::memory_order_relaxed) + 1.0;
      for (std::size_t i = 1; i < k.scalars.size(); ++i)
        scalars[i] = std::atomic_ref(shared[i]).load(std::memory_order_relaxed);
    }
    if (&group != group_ || &k != kernel_ || std::memcmp(scalars, before_, sizeof scalars) != 0) {
      group_ = &group;
      kernel_ = &k;
      std::memcpy(before_, scalars, sizeof scalars);
      std::memcpy(after_, scalars, sizeof scalars);
      k.prepare(group.hyper, after_, coef_.bytes);
    }
    for (std::size_t i = 1; i < k.scalars.size(); ++i)
      std::atomic_ref(reinterpret_cast<double*>(at(block.scalars))[i])
          .store(after_[i], std::memory_order_relaxed);

    task.loops = &k.loops;
    task.coef = coef_.bytes;
    task.param_bytes = k.param_bytes;
    task.state_bytes = k.state_bytes;
    task.row_slots = k.row_slots;
    task.element_slots = k.slots.size() - k.row_slots;
    task.width = std::max(block.width != 0 ? block.width : block.n, std::size_t{1});
    task.offset = block.param;
    task.span = {at(block.param), block.grad, {}, block.n, noise(seed_, ++tensor_)};
    for (std::size_t i = 0; i < k.slots.size(); ++i) task.span.slots[i] = at(block.slots[i]);
    task.block = &block;
    if (block.rows != nullptr) task.rows = RowOrder({block.rows, block.row_count});
  }

  // What the task prepared last points to; overwritten by one with other coefficients.
  const Coefficients& coefficients() const { return coef_; }

 private:
  std::uint32_t seed_;
  std::uint32_t tensor_ = 0;
  const Group* group_ = nullptr;
  const Kernel* kernel_ = nullptr;
  double before_[kMaxScalars] = {};
  double after_[kMaxScalars] = {};
  Coefficients coef_;
};

// Calls each(task, span, offset, tally) for the elements, or rows, [begin, end) of a task. The
// gradients of a row that is named more than once are added up before.
template <class Each>
void apply_range(const Task& task, std::size_t begin, std::size_t end, Tally& tally, Each& each) {
  if (!task.is_by_rows()) {
    each(task, task.part(task.span, begin, end - begin), task.offset + begin * task.param_bytes,
         tally);
    return;
  }
  const std::size_t width = task.width, row_bytes = width * task.param_bytes;
  const auto* const grads = static_cast<const std::byte*>(task.span.grad);
  const bool is_dense = task.block->rows == nullptr;
  std::vector<std::byte> sum;
  for (std::size_t i = begin; i < end; ++i) {
    const std::size_t at = (is_dense ? i : task.rows.row(i)) * width;
    Span span = task.part(task.span, at, width);
    if (!is_dense) span.grad = grads + task.rows.place(i) * row_bytes;
    if (!is_dense && task.rows.is_repeated(i)) {
      sum.assign(row_bytes, std::byte{0});
      task.rows.for_each_place(i, [&](std::size_t place) {
        task.loops->add(sum.data(), grads + place * row_bytes, width);
      });
      span.grad = sum.data();
    }
    each(task, span, task.offset + at * task.param_bytes, tally);
  }
}

// Updates every tensor of the push that has a gradient, at `base`.
template <class Each>
void apply(const Push& push, std::byte* base, Tally& tally, Each each) {
  std::size_t total = 0;
  if (push.threads > 1)
    for (const Group& group : push.groups)
      for (const Block& block : group.blocks)
        if (block.grad != nullptr) total += block.touched();

  Preparer prepare(push);
  if (total < kParallel) {
    Task task;
    for (const Group& group : push.groups)
      for (const Block& block : group.blocks)
        if (block.grad != nullptr) {
          prepare(group, block, base, task);
          apply_range(task, 0, task.count(), tally, each);
        }
    return;
  }

  struct Chunk {
    std::size_t task, begin, end;
  };
  std::deque<Task> tasks;
  std::deque<Coefficients> coefs;  // a deque: tasks point into it
  std::vector<Chunk> chunks;
  for (const Group& group : push.groups)
    for (const Block& block : group.blocks) {
      if (block.grad == nullptr) continue;
      prepare(group, block, base, tasks.emplace_back());
      tasks.back().coef = coefs.emplace_back(prepare.coefficients()).bytes;
      const std::size_t n = tasks.back().count();
      const std::size_t width = tasks.back().is_by_rows() ? tasks.back().width : 1;
      const std::size_t size = std::max(kChunk / width, std::size_t{1});
      for (std::size_t begin = 0; begin < n; begin += size)
        chunks.push_back({tasks.size() - 1, begin, std::min(begin + size, n)});
    }
  std::mutex merging;
  std::exception_ptr failure;
  parallel_for(chunks.size(), push.threads, [&](std::size_t i) {
    Tally mine;
    std::exception_ptr thrown;
    try {
      apply_range(tasks[chunks[i].task], chunks[i].begin, chunks[i].end, mine, each);
    } catch (...) {
      thrown = std::current_exception();
    }
    const std::lock_guard lock(merging);
    tally.add(mine);
    if (thrown != nullptr) failure = thrown;
  });
  if (failure != nullptr) std::rethrow_exception(failure);
}

// Plain vectorized stores: what a worker does that has the memory to itself, or that races.
inline void apply_racy(const Push& push, std::byte* base, Tally& tally) {
  apply(push, base, tally, [](const Task& task, const Span& span, std::uintptr_t, Tally&) {
    task.loops->racy(task.coef, span);
  });
}

}  // namespace asyncopt
