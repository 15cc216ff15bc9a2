// Pushes that a LockTimeout ends in the middle: the worker's next push completes the rest, and
// repeats nothing. The reference is the same pushes without a lock in the way.
#include <algorithm>
#include <string>
#include <vector>

#include "asyncopt/push/apply.h"
#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

constexpr double kTimeout = 0.002;

// With hyperparameters that leave no term out.
Group some_group(const Kernel& kernel) {
  Group group;
  for (std::size_t i = 0; i < kernel.hyper.size(); ++i)
    for (const auto& [name, value] :
         std::initializer_list<std::pair<std::string_view, double>>{{"lr", 0.1},
                                                                    {"momentum", 0.9},
                                                                    {"beta1", 0.9},
                                                                    {"beta2", 0.99},
                                                                    {"eps", 1e-8},
                                                                    {"weight_decay", 0.01},
                                                                    {"lambd", 1e-4},
                                                                    {"alpha", 0.75},
                                                                    {"t0", 1}})
      if (name == kernel.hyper[i]) group.hyper[i] = value;
  return group;
}

// One worker with tensors of a rule, its gradients, and its notes.
struct Worker {
  const Kernel& kernel;
  Store store;
  std::vector<Block> blocks;
  Group group;
  Unfinished unfinished;
  std::size_t threads;

  Worker(std::string_view rule, const std::vector<Store::Tensor>& tensors, std::size_t workers)
      : kernel(*tensors[0].kernel),
        store("striped", 1, tensors, kTimeout),
        blocks(store.blocks),
        group(some_group(kernel)),
        threads(workers) {
    current_case = std::string(rule);
  }

  Push request() {
    group.blocks = blocks;
    return {.groups = {&group, 1}, .threads = threads, .unfinished = &unfinished};
  }
  PushResult push_once() { return push(store.segment, 0, request()); }
  // The push that finds stripes locked.
  void push_into(const std::vector<std::size_t>& stripes, const char* expected) {
    Tally tally;
    for (const std::size_t i : stripes) store.segment.stripe(i).lock(1, tally);
    CHECK_THROWS(LockTimeout, expected, push_once());
    for (const std::size_t i : stripes) store.segment.stripe(i).unlock();
  }
  std::uint64_t count_of(Counter WorkerSlot::* counter) const {
    return (store.segment.worker(0).*counter).load_relaxed();
  }
};

constexpr const char* kPartly = "part of this step was written: call step() again";

void check_equal(const Worker& a, const Worker& b) {
  CHECK_EQ(a.store.config.data_bytes, b.store.config.data_bytes);
  const auto* const ours = a.store.segment.data();
  const auto* const theirs = b.store.segment.data();
  for (std::size_t i = 0; i < a.store.config.data_bytes; ++i)
    if (ours[i] != theirs[i])
      fail(__FILE__, __LINE__, "the data differ", i, b.store.config.param_bytes);
  CHECK_EQ(a.store.version(), b.store.version());
  CHECK_EQ(a.count_of(&WorkerSlot::pushes), b.count_of(&WorkerSlot::pushes));
  CHECK_EQ(a.count_of(&WorkerSlot::unfinished), 0u);
  CHECK(!a.unfinished.is_interrupted());
}

using Gradients = std::vector<std::vector<double>>;

Gradients gradients_of(const std::vector<Store::Tensor>& tensors, std::uint32_t seed) {
  Numbers numbers(seed);
  Gradients made;
  for (const Store::Tensor& tensor : tensors)
    for (std::vector<double>& grad = made.emplace_back(); grad.size() < tensor.n;)
      grad.push_back(numbers());
  return made;
}

// Three tensors of 3, 5 and 2 stripes. One push, one that is interrupted at a stripe (or twice, at
// two), the rest of it, and one more.
void check_dense(std::string_view rule, std::size_t threads, std::size_t scale) {
  const Kernel& kernel = kernel_of(rule, "float64");
  const std::vector<Store::Tensor> tensors{
      {&kernel, 24 * scale}, {&kernel, 37 * scale}, {&kernel, 11 * scale}};
  for (const std::vector<std::size_t>& at :
       std::vector<std::vector<std::size_t>>{{0}, {1}, {3}, {5}, {7}, {8}, {9}, {2, 6}, {6, 6}}) {
    Worker subject(rule, tensors, threads), reference(rule, tensors, threads);
    const std::size_t stripes = subject.store.segment.header().stripes;
    for (std::uint32_t step = 0; step < 3; ++step) {
      const Gradients grads = gradients_of(tensors, step);
      for (Worker* const worker : {&subject, &reference})
        for (std::size_t i = 0; i < tensors.size(); ++i) worker->blocks[i].grad = grads[i].data();
      reference.push_once();
      if (step == 1) {
        current_case = std::string(rule) + ", locked at " + std::to_string(at[0]);
        std::vector<std::size_t> locked;
        for (const std::size_t tenth : at) locked.push_back(tenth * stripes / 10);
        // Of several threads the others have done what comes after.
        if (threads > 1)
          subject.push_into({locked.begin(), std::unique(locked.begin(), locked.end())}, kPartly);
        else
          for (const std::size_t stripe : locked) subject.push_into({stripe}, kPartly);
        CHECK_EQ(subject.store.version(), 1u);
        CHECK_EQ(subject.count_of(&WorkerSlot::pushes), 1u);
        CHECK_EQ(subject.count_of(&WorkerSlot::unfinished), 1u);
      }
      subject.push_once();
      check_equal(subject, reference);
    }
  }
}

// A worker that gives up the first gradients and continues with others: each element takes one.
void check_other_gradients() {
  const Kernel& kernel = kernel_of("sgd", "float64");
  constexpr std::size_t kSize = 64;
  Worker worker("sgd", {{&kernel, kSize}}, 1);
  worker.group = group_of(kernel, {{"lr", 1}, {"maximize", 1}});
  const std::vector<double> ones(kSize, 1), hundreds(kSize, 100);
  worker.blocks[0].grad = ones.data();
  worker.push_into({3}, kPartly);
  CHECK_EQ(worker.unfinished.elements(), 24u);
  worker.blocks[0].grad = hundreds.data();
  Tally tally;
  worker.store.segment.stripe(0).lock(1, tally);  // its elements are done
  worker.push_once();
  worker.store.segment.stripe(0).unlock();
  for (std::size_t i = 0; i < kSize; ++i)
    CHECK_EQ(worker.store.param<double>()[i], i < 24 ? 1 : 100);
  CHECK_EQ(worker.store.version(), 1u);
  worker.push_once();
  for (std::size_t i = 0; i < kSize; ++i)
    CHECK_EQ(worker.store.param<double>()[i], i < 24 ? 101 : 200);
}

// Rows of two and a half stripes, some of them named twice; with a journal or without.
void check_rows(std::string_view rule, std::size_t journal_rows) {
  const Kernel& kernel = kernel_of(rule, "float64");
  constexpr std::size_t kWidth = 20, kRows = 12;
  const std::vector<Store::Tensor> tensors{{&kernel, kWidth * kRows, journal_rows}};
  const std::vector<std::vector<std::int64_t>> named{
      {1, 2, 7}, {9, 3, 0, 3, 7, 5, 0, 11}, {4, 5, 6, 7}};
  for (std::size_t stripe = 0; stripe < 30; ++stripe) {
    Worker subject(rule, tensors, 1), reference(rule, tensors, 1);
    const auto free_of = [&](std::size_t row) {  // whether the row has no part in the stripe
      return row * kWidth >= (stripe + 1) * 8 || (row + 1) * kWidth <= stripe * 8;
    };
    for (std::uint32_t step = 0; step < 3; ++step) {
      const std::vector<std::int64_t>& rows = named[step];
      Numbers numbers(step);
      std::vector<double> grad;
      while (grad.size() < rows.size() * kWidth) grad.push_back(numbers());
      for (Worker* const worker : {&subject, &reference}) {
        Block& block = worker->blocks[0];
        block.grad = grad.data();
        block.rows = rows.data();
        block.row_count = rows.size();
        block.width = kWidth;
      }
      reference.push_once();
      if (step == 1) {
        current_case = std::string(rule) + ", stripe " + std::to_string(stripe);
        Tally tally;
        subject.store.segment.stripe(stripe).lock(1, tally);
        bool timed_out = false;
        try {
          subject.push_once();
        } catch (const LockTimeout&) {
          timed_out = true;
        }
        subject.store.segment.stripe(stripe).unlock();
        // Row-wise rules lock a row where it begins.
        bool is_named = false;
        for (const std::int64_t row : rows) {
          const auto r = static_cast<std::size_t>(row);
          is_named |= kernel.row_slots > 0 ? r * kWidth / 8 == stripe : !free_of(r);
        }
        if (journal_rows == 0) CHECK_EQ(timed_out, is_named);
        if (timed_out) subject.push_once();
      } else {
        subject.push_once();
      }
    }
    for (Worker* const worker : {&subject, &reference}) {
      Push payment = worker->request();
      worker->blocks[0].grad = nullptr;
      worker->blocks[0].rows = nullptr;
      payment.catch_up = true;
      if (journal_rows > 0) push(worker->store.segment, 0, payment);
    }
    CHECK_EQ(subject.store.version(), 3u);
    CHECK_EQ(subject.count_of(&WorkerSlot::unfinished), 0u);
    for (std::size_t i = 0; i < kWidth * kRows; ++i)
      CHECK_EQ(subject.store.param<double>()[i], reference.store.param<double>()[i]);
  }
}

// Gradients that come tensor by tensor: a repeated push leaves the tensors alone that were done.
void check_parts() {
  const Kernel& kernel = kernel_of("sgd_momentum", "float64");
  const std::vector<Store::Tensor> tensors{{&kernel, 16}, {&kernel, 16}, {&kernel, 16}};
  const Gradients grads = gradients_of(tensors, 1);
  Worker subject("parts", tensors, 1), reference("parts", tensors, 1);
  const auto push_part = [&](Worker& worker, std::size_t i) {
    for (Block& block : worker.blocks) block.grad = nullptr;
    worker.blocks[i].grad = grads[i].data();
    Push request = worker.request();
    request.part = i + 1 < tensors.size() ? Part::some : Part::last;
    push(worker.store.segment, 0, request);
  };
  for (int round = 0; round < 2; ++round) {
    for (std::size_t i = 0; i < 3; ++i) push_part(reference, i);
    push_part(subject, 0);
    Tally tally;
    subject.store.segment.stripe(3).lock(1, tally);
    CHECK_THROWS(LockTimeout, kPartly, push_part(subject, 1));
    subject.store.segment.stripe(3).unlock();
    for (std::size_t i = 0; i < 3; ++i) push_part(subject, i);
    check_equal(subject, reference);
  }
  // One that is given up between its parts, and not by a timeout, is no reason to leave out any.
  push_part(subject, 0);
  push_part(reference, 0);
  for (std::size_t i = 0; i < 3; ++i) {
    push_part(subject, i);
    push_part(reference, i);
  }
  check_equal(subject, reference);
}

// Without notes the ledger keeps the partial push. Under a sync that writes nothing before it has
// its lock, the message says so.
void check_messages() {
  const Kernel& kernel = kernel_of("sgd", "float64");
  const std::vector<double> ones(64, 1);
  for (const char* const sync : {"striped", "mutex", "seqlock"}) {
    current_case = sync;
    const Store store(sync, 1, {{&kernel, 64}}, kTimeout);
    const bool striped = store.segment.header().stripes > 0;
    Block block = store.blocks[0];
    block.grad = ones.data();
    Group group = group_of(kernel, {{"lr", 1}});
    group.blocks = {&block, 1};
    Unfinished unfinished;
    Push request{.groups = {&group, 1}};
    if (!striped) request.unfinished = &unfinished;
    RobustMutex& mutex = striped ? store.segment.stripe(2) : store.segment.header().mutex;
    Tally tally;
    mutex.lock(1, tally);
    CHECK_THROWS(LockTimeout, striped ? "part of this push may have been" : "nothing of this step",
                 push(store.segment, 0, request));
    mutex.unlock();
    CHECK_EQ(store.segment.worker(0).unfinished.load_relaxed(), striped ? 1u : 0u);
  }
}

}  // namespace

int main() {
  set_deadline();
  for (const char* const rule : {"sgd_momentum", "adam", "asgd"}) check_dense(rule, 1, 1);
  for (const std::size_t threads : {1u, 3u}) check_dense("adam", threads, kParallel / 64);
  check_other_gradients();
  for (const char* const rule : {"sgd_momentum", "adam", "adagrad_rowwise"}) check_rows(rule, 0);
  for (const char* const rule : {"sgd_momentum", "adam"}) check_rows(rule, 12);
  check_parts();
  check_messages();
}
