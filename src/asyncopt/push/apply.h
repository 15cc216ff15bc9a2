// Application of a push, tensor by tensor: counts the step, prepares the coefficients, and cuts
// large tensors into chunks for several threads. The sync's visitor updates each range.
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "asyncopt/base/atomic.h"
#include "asyncopt/base/parallel.h"
#include "asyncopt/push/missed_steps.h"
#include "asyncopt/push/push.h"
#include "asyncopt/push/rows.h"

namespace asyncopt {

// Elements per chunk: handing one out (about 100 ns) is negligible beside its update (10 us or
// more).
inline constexpr std::size_t kChunk = std::size_t{1} << 15;

// A tensor ready to be updated.
struct Task : Update {
  std::uintptr_t offset;  // of the parameter in the segment's data
  Span span;              // the whole tensor; no gradient if rows only replay missed pushes
  bool has_row_list;
  RowOrder rows;  // rows of the list
  // For a table with lazy updates:
  std::optional<Journal> journal;
  std::optional<MissedSteps> missed;  // if any of these rows missed a push
  Journal::Range share;               // rows that only replay missed pushes
  std::uint64_t now = 0;              // number of pushes up to which rows replay
  std::uint64_t number = 0;           // of the push, if it moves rows without a gradient; else 0
  const Unfinished::Tensor* done = nullptr;  // progress of an interrupted push on this tensor

  // True if the tensor is updated row by row, not by ranges of elements.
  bool is_by_rows() const { return has_row_list || row_slots > 0 || span.grad == nullptr; }
  // Number of rows that the gradient, or the list, names. The rows of `share` follow them.
  std::size_t named() const {
    if (has_row_list) return rows.size();
    return span.grad != nullptr ? span.n / width : 0;
  }
  std::size_t named_row(std::size_t i) const { return has_row_list ? rows.row(i) : i; }
  std::size_t row(std::size_t i) const {
    return i < named() ? named_row(i) : share.begin + (i - named());
  }
  // Number of rows or elements.
  std::size_t count() const { return is_by_rows() ? named() + (share.end - share.begin) : span.n; }
};

inline Journal journal_of(const Block& block, std::byte* base) {
  return {memory_at(base, block.journal), block.journal_rows, block.kernel->coef_bytes};
}

// The two phases of a push over its tensors.
enum class Phase {
  catch_up,  // replays missed pushes
  update,    // applies gradients; the rows that they name, and a share of others, replay first
};

// Counts the step and prepares the coefficients. Most tensors have equal scalars, so the previous
// tensor's coefficients are reused, which saves two calls of pow per tensor.
class Preparer {
 public:
  // `unfinished`: progress of the push that this one finishes, or null.
  Preparer(const Push& push, Phase phase, const Unfinished* unfinished)
      : seed_(push.seed), phase_(phase), unfinished_(unfinished) {}

  void operator()(const Group& group, const Block& block, std::byte* base, Task& task) {
    const Kernel& k = *block.kernel;
    task.done = unfinished_ != nullptr ? unfinished_->find(block.param) : nullptr;
    if (task.done != nullptr) {
      record_ = task.done->record;
      group_ = nullptr;  // prepare the next tensor's coefficients anew
    } else {
      count_step(group, block, base);
    }
    task.loops = &k.loops;
    task.coef = record_.coef;
    task.param_bytes = k.param_bytes;
    task.state_bytes = k.state_bytes;
    task.row_slots = k.row_slots;
    task.element_slots = k.slots.size() - k.row_slots;
    task.width = std::max(block.width != 0 ? block.width : block.n, std::size_t{1});
    task.offset = block.param;
    const void* const grad = phase_ == Phase::update ? block.grad : nullptr;
    task.span = {memory_at(base, block.param), grad, {}, block.n, noise(seed_, ++tensor_)};
    for (std::size_t i = 0; i < k.slots.size(); ++i)
      task.span.slots[i] = memory_at(base, block.slots[i]);
    task.has_row_list = block.rows != nullptr;
    task.rows = task.has_row_list ? RowOrder({block.rows, block.row_count}) : RowOrder();
    open_journal(group, block, base, task);
  }

  // The record that the last prepared task points to. A task with other coefficients overwrites it.
  const Record& record() const { return record_; }

 private:
  void count_step(const Group& group, const Block& block, std::byte* base) {
    const Kernel& k = *block.kernel;
    const bool counts = phase_ == Phase::update;
    auto* const shared = reinterpret_cast<double*>(memory_at(base, block.scalars));
    double scalars[kMaxScalars] = {};
    if (!k.scalars.empty()) {
      // Every worker counts, and no count is lost, so that bias corrections stay correct.
      scalars[0] = 1.0 + (counts ? fetch_add_relaxed(shared, 1.0) : load_relaxed(shared));
      for (std::size_t i = 1; i < k.scalars.size(); ++i) scalars[i] = load_relaxed(shared + i);
    }
    if (&group != group_ || &k != kernel_ || std::memcmp(scalars, before_, sizeof scalars) != 0) {
      group_ = &group;
      kernel_ = &k;
      std::memcpy(before_, scalars, sizeof scalars);
      std::memcpy(after_, scalars, sizeof scalars);
      k.prepare(group.hyper, after_, record_.coef);
    }
    if (counts)
      for (std::size_t i = 1; i < k.scalars.size(); ++i) store_relaxed(shared + i, after_[i]);
  }

  void open_journal(const Group& group, const Block& block, std::byte* base, Task& task) {
    task.journal.reset();
    task.missed.reset();
    task.share = {};
    task.number = 0;
    if (block.journal_rows == 0) return;
    const Kernel& k = *block.kernel;
    const Journal& journal = task.journal.emplace(journal_of(block, base));
    task.now = journal.finished();
    if (task.done == nullptr) record_.linear_after = k.idle.linear_after(group.hyper);
    if (phase_ == Phase::catch_up) {
      if (!task.has_row_list) task.share = {0, journal.rows()};
    } else if (!task.has_row_list) {
      return;  // the phase catch_up has replayed all rows
    } else if (task.done != nullptr) {
      task.number = task.done->number;
    } else if (k.idle.moves_idle_rows(group.hyper)) {
      task.number = journal.start(record_);
    }
    if (task.number != 0) task.share = journal.share(task.number);
    std::uint64_t oldest = task.now;
    for (std::size_t i = 0; i < task.count(); ++i)
      oldest = std::min(oldest, journal.applied(task.row(i)));
    if (oldest < task.now)
      task.missed.emplace(journal, k, oldest, task.now, record_, task.width * task.param_bytes);
    else
      task.share = {};
  }

  std::uint32_t seed_;
  Phase phase_;
  const Unfinished* unfinished_;
  std::uint32_t tensor_ = 0;
  const Group* group_ = nullptr;
  const Kernel* kernel_ = nullptr;
  double before_[kMaxScalars] = {};
  double after_[kMaxScalars] = {};
  Record record_;
};

// A visitor that updates elements under locks. Each call updates one row, or at most
// reach(update, offset, n) elements, while the object returned by hold(update, offset, n, tally)
// exists. Only hold() throws, before anything is written.
template <class Each>
concept Locking =
    requires(Each each, const Update& update, std::uintptr_t offset, std::size_t n, Tally& tally) {
      { each.reach(update, offset, n) } -> std::same_as<std::size_t>;
      each.hold(update, offset, n, tally);
    };

// Holds the locks of n elements if the visitor has locks.
template <class Each>
auto hold(Each& each, const Update& update, std::uintptr_t offset, std::size_t n, Tally& tally) {
  if constexpr (Locking<Each>)
    return each.hold(update, offset, n, tally);
  else
    return std::monostate{};
}

// Calls each(update, span, offset, tally) for the rows from `at` to `end` of a task, with or
// without a journal. Sums the gradients of a row that is named more than once first. Advances `at`:
// if locking a row fails, it is the first row that is not done.
template <bool has_journal, class Each>
void apply_rows(const Task& task, std::size_t& at, std::size_t end, Tally& tally, Each& each) {
  const std::size_t width = task.width, row_bytes = width * task.param_bytes;
  const std::size_t named = task.named();
  const auto* const grads = static_cast<const std::byte*>(task.span.grad);
  Span whole = task.span;
  if (task.has_row_list) whole.grad = nullptr;  // gradients are in the order of the list
  std::vector<std::byte> sum;
  std::vector<const void*> repeats;
  for (; at < end; ++at) {
    const std::size_t i = at;
    const bool is_named = !has_journal || i < named;
    const std::size_t row = is_named ? task.named_row(i) : task.row(i), first = row * width;
    if constexpr (has_journal)
      if (!is_named && task.rows.contains(row)) continue;  // updated with its gradient
    if constexpr (Locking<Each>)
      if (is_named && task.done != nullptr && task.done->has(first)) continue;
    const std::uintptr_t offset = task.offset + first * task.param_bytes;
    Span span = task.part(whole, first, width);
    if (task.has_row_list && grads != nullptr && is_named) {
      span.grad = grads + task.rows.place(i) * row_bytes;
      if (task.rows.is_repeated(i)) {
        sum.resize(row_bytes);
        repeats.clear();
        task.rows.for_each_place(
            i, [&](std::size_t place) { repeats.push_back(grads + place * row_bytes); });
        task.loops->sum(sum.data(), repeats.data(), repeats.size(), width);
        span.grad = sum.data();
      }
    }
    [[maybe_unused]] const auto held = hold(each, task, offset, width, tally);
    if constexpr (has_journal) {
      if (task.missed) task.missed->replay(row, task, span, offset, tally, each);
      if (!is_named || grads == nullptr) continue;
      if (task.number != 0) task.journal->touch(row);
    }
    each(task, span, offset, tally);
  }
}

// The same for the elements, or rows, from `at` to `end` of a task.
template <class Each>
void apply_range(const Task& task, std::size_t& at, std::size_t end, Tally& tally, Each& each) {
  if (task.is_by_rows()) {
    task.journal ? apply_rows<true>(task, at, end, tally, each)
                 : apply_rows<false>(task, at, end, tally, each);
    return;
  }
  const auto update = [&](std::size_t n) {
    const std::uintptr_t offset = task.offset + at * task.param_bytes;
    [[maybe_unused]] const auto held = hold(each, task, offset, n, tally);
    each(task, task.part(task.span, at, n), offset, tally);
    at += n;
  };
  if constexpr (Locking<Each>) {
    while (at < end) {
      std::size_t n = each.reach(task, task.offset + at * task.param_bytes, end - at);
      if (task.done != nullptr) {
        const auto [is_done, length] = task.done->run(at);
        n = std::min(n, length);
        if (is_done) {
          at += n;
          continue;
        }
      }
      update(n);
    }
  } else {
    update(end - at);
  }
}

// Updates the journal after the whole task has been applied.
inline void close_journal(const Task& task, Phase phase) {
  if (!task.journal) return;
  if (task.number != 0) task.journal->finish();
  if (task.has_row_list) return;
  if (phase == Phase::catch_up)
    task.journal->set_caught_up(task.now);
  else
    task.journal->mark_active(task.now);
}

// A range of a task's elements or rows. Those before `at` are done.
struct Chunk {
  std::size_t task, begin, end, at = begin;
};

// Records the progress of an interrupted push on a task.
inline void note(Unfinished& unfinished, const Task& task, const Record& record,
                 std::span<const Chunk> chunks) {
  Unfinished::Tensor& tensor = unfinished.open(task.offset);
  tensor.record = record;
  tensor.number = task.number;
  std::vector<Unfinished::Range> done;
  for (const Chunk& chunk : chunks) {
    if (!task.is_by_rows()) {
      done.push_back({chunk.begin, chunk.at});
      continue;
    }
    for (std::size_t i = chunk.begin; i < std::min(chunk.at, task.named()); ++i) {
      const std::size_t first = task.named_row(i) * task.width;
      done.push_back({first, first + task.width});
    }
  }
  tensor.add(std::move(done));
}

// True if a phase has work on a tensor.
inline bool concerns(Phase phase, const Push& push, const Block& block, std::byte* base) {
  if (phase == Phase::update) return block.grad != nullptr;
  if (block.journal_rows == 0 ||
      (!push.catch_up && (block.grad == nullptr || block.rows != nullptr)))
    return false;
  const Journal journal = journal_of(block, base);
  return !journal.is_caught_up(journal.finished());
}

template <class Each>
void run_phase(Phase phase, const Push& push, std::byte* base, Tally& tally, Each& each) {
  // The phase catch_up records no progress: a row that has replayed has nothing left to replay.
  Unfinished* unfinished = nullptr;
  if constexpr (Locking<Each>)
    if (phase == Phase::update) unfinished = push.unfinished;
  const bool resumes = unfinished != nullptr && unfinished->is_interrupted();
  const auto for_each_block = [&](auto visit) {
    for (const Group& group : push.groups)
      for (const Block& block : group.blocks)
        if (concerns(phase, push, block, base) && !(resumes && unfinished->is_closed(block.param)))
          visit(group, block);
  };
  std::size_t blocks = 0, total = 0;
  for_each_block([&](const Group&, const Block& block) {
    ++blocks;
    total += block.touched();
  });
  if (blocks == 0) return;  // the usual case of the phase catch_up

  Preparer prepare(push, phase, resumes ? unfinished : nullptr);
  if (push.threads <= 1 || total < kParallel) {
    Task task;
    std::size_t finished = 0;  // blocks
    for_each_block([&](const Group& group, const Block& block) {
      prepare(group, block, base, task);
      Chunk all{0, 0, task.count()};
      try {
        apply_range(task, all.at, all.end, tally, each);
      } catch (...) {
        if (unfinished != nullptr) {
          std::size_t i = 0;
          for_each_block([&](const Group&, const Block& before) {
            if (i++ < finished) unfinished->close(before.param);
          });
          note(*unfinished, task, prepare.record(), {&all, 1});
        }
        throw;
      }
      close_journal(task, phase);
      ++finished;
    });
    return;
  }

  std::deque<Task> tasks;
  std::deque<Record> records;  // a deque: tasks point into it
  std::vector<Chunk> chunks;
  for_each_block([&](const Group& group, const Block& block) {
    Task& task = tasks.emplace_back();
    prepare(group, block, base, task);
    task.coef = records.emplace_back(prepare.record()).coef;
    const std::size_t n = task.count();
    const std::size_t width = task.is_by_rows() ? task.width : 1;
    const std::size_t size = std::max(kChunk / width, std::size_t{1});
    for (std::size_t begin = 0; begin < n; begin += size)
      chunks.push_back({tasks.size() - 1, begin, std::min(begin + size, n)});
  });
  std::mutex merging;
  try {
    parallel_for(chunks.size(), push.threads, [&](std::size_t i) {
      Chunk& chunk = chunks[i];
      struct Mine : Tally {  // added to the sum even if the chunk throws
        Tally& all;
        std::mutex& merging;
        Mine(Tally& a, std::mutex& m) : all(a), merging(m) {}
        ~Mine() {
          const std::lock_guard lock(merging);
          all.add(*this);
        }
      } mine(tally, merging);
      apply_range(tasks[chunk.task], chunk.at, chunk.end, mine, each);
    });
  } catch (...) {
    if (unfinished != nullptr)
      for (auto first = chunks.cbegin(); first != chunks.cend();) {
        const auto last = std::find_if(first, chunks.cend(),
                                       [&](const Chunk& c) { return c.task != first->task; });
        note(*unfinished, tasks[first->task], records[first->task], {first, last});
        first = last;
      }
    throw;
  }
  for (const Task& task : tasks) close_journal(task, phase);
}

// Stores n values; if `pulled` is not null, only those that differ from it. Other workers may read
// the memory meanwhile, or write the elements in between.
template <class Word>
void store_changed(const std::byte* written, const std::byte* pulled, std::byte* to,
                   std::size_t n) {
  for (std::size_t i = 0; i < n * sizeof(Word); i += sizeof(Word)) {
    if (pulled != nullptr && std::memcmp(written + i, pulled + i, sizeof(Word)) == 0) continue;
    Word word;
    std::memcpy(&word, written + i, sizeof word);
    store_relaxed(reinterpret_cast<Word*>(to + i), word);
  }
}

// Applies a worker's writes to its replica to `base`, under the locks of the elements if the
// visitor has locks. Skipped in a push that finishes an interrupted one, which has applied them.
// Out of line: most pushes have no writes, and inlining slows them down.
template <class Each>
[[gnu::noinline]] void apply_writes(const Push& push, std::byte* base, Tally& tally, Each& each) {
  if (push.unfinished != nullptr && push.unfinished->is_interrupted()) return;
  for (const ReplicaWrite& write : push.writes) {
    const Block& block = *write.block;
    const std::size_t size = block.kernel->param_bytes;
    Update update{};
    update.param_bytes = size;
    update.row_slots = block.kernel->row_slots;
    for (std::size_t at = 0, n; at < block.n; at += n) {
      const std::uintptr_t offset = block.param + at * size;
      n = block.n - at;
      if constexpr (Locking<Each>)
        n = update.row_slots == 0 ? each.reach(update, offset, n)
                                  : (block.width != 0 ? block.width : block.n);
      [[maybe_unused]] const auto held = hold(each, update, offset, n, tally);
      const std::byte* const written = write.written + at * size;
      const std::byte* const pulled = write.pulled == nullptr ? nullptr : write.pulled + at * size;
      std::byte* const to = memory_at(base, offset);
      if (size == 2)
        store_changed<std::uint16_t>(written, pulled, to, n);
      else if (size == 4)
        store_changed<std::uint32_t>(written, pulled, to, n);
      else
        store_changed<std::uint64_t>(written, pulled, to, n);
    }
  }
}

// Applies the writes, then updates every tensor of the push that has a gradient, at `base`. Tables
// with a dense gradient replay all rows first.
template <class Each>
void apply(const Push& push, std::byte* base, Tally& tally, Each each) {
  if (!push.writes.empty()) apply_writes(push, base, tally, each);
  run_phase(Phase::catch_up, push, base, tally, each);
  if (!push.catch_up) run_phase(Phase::update, push, base, tally, each);
}

// Applies a push by plain vectorized stores, for workers that have the memory to themselves or
// race.
inline void apply_racy(const Push& push, std::byte* base, Tally& tally) {
  apply(push, base, tally, [](const Update& update, const Span& span, std::uintptr_t, Tally&) {
    update.loops->racy(update.coef, span);
  });
}

}  // namespace asyncopt
