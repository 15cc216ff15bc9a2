// Walks over a push: steps counted, coefficients prepared, large tensors cut into chunks for
// several threads. What is done with each range is the sync's.
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

#include "asyncopt/owed.h"
#include "asyncopt/parallel.h"
#include "asyncopt/push.h"
#include "asyncopt/rows.h"

namespace asyncopt {

// Chunks large enough that handing one out (about 100 ns) vanishes in updating it (10 us and more).
inline constexpr std::size_t kChunk = std::size_t{1} << 15;

// A tensor ready to be updated.
struct Task : Update {
  std::uintptr_t offset;  // of the parameter in the segment's data
  Span span;              // all of it; without a gradient if rows are only caught up with
  bool has_row_list;
  RowOrder rows;  // those on the list
  // Of a table with a book.
  std::optional<Book> book;
  std::optional<Owed> owed;  // if any of these rows owes anything
  Book::Range share;         // rows that are only caught up with
  std::uint64_t now = 0;     // pushes that they are paid
  std::uint64_t number = 0;  // of the push, if rows without a gradient owe it; else 0
  const Unfinished::Tensor* done = nullptr;  // what an interrupted push has done of it

  // Whether rows are updated one after the other, not ranges of elements.
  bool is_by_rows() const { return has_row_list || row_slots > 0 || span.grad == nullptr; }
  // How many rows the gradient, or the list, names. The share comes after them.
  std::size_t named() const {
    if (has_row_list) return rows.size();
    return span.grad != nullptr ? span.n / width : 0;
  }
  std::size_t named_row(std::size_t i) const { return has_row_list ? rows.row(i) : i; }
  std::size_t row(std::size_t i) const {
    return i < named() ? named_row(i) : share.begin + (i - named());
  }
  // How many rows or elements.
  std::size_t count() const { return is_by_rows() ? named() + (share.end - share.begin) : span.n; }
};

inline Book book_of(const Block& block, std::byte* base) {
  return {memory_at(base, block.book), block.book_rows, block.kernel->coef_bytes};
}

// What a pass over the tensors of a push is for.
enum class Pass {
  catch_up,  // rows are paid what they owe
  update,    // gradients are applied; rows that they name, and some others, are paid before
};

// Counts the step and prepares the coefficients. Tensors mostly agree in their scalars, so that the
// coefficients of the tensor before can be kept: two calls of pow saved per tensor.
class Preparer {
 public:
  // `unfinished`: of the push that this one finishes, or null.
  Preparer(const Push& push, Pass pass, const Unfinished* unfinished)
      : seed_(push.seed), pass_(pass), unfinished_(unfinished) {}

  void operator()(const Group& group, const Block& block, std::byte* base, Task& task) {
    const Kernel& k = *block.kernel;
    task.done = unfinished_ != nullptr ? unfinished_->find(block.param) : nullptr;
    if (task.done != nullptr) {
      record_ = task.done->record;
      group_ = nullptr;  // the next tensor's are prepared anew
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
    const void* const grad = pass_ == Pass::update ? block.grad : nullptr;
    task.span = {memory_at(base, block.param), grad, {}, block.n, noise(seed_, ++tensor_)};
    for (std::size_t i = 0; i < k.slots.size(); ++i)
      task.span.slots[i] = memory_at(base, block.slots[i]);
    task.has_row_list = block.rows != nullptr;
    task.rows = task.has_row_list ? RowOrder({block.rows, block.row_count}) : RowOrder();
    open_book(group, block, base, task);
  }

  // The record that the last prepared task points to; overwritten by one with other coefficients.
  const Record& record() const { return record_; }

 private:
  void count_step(const Group& group, const Block& block, std::byte* base) {
    const Kernel& k = *block.kernel;
    const bool counts = pass_ == Pass::update;
    auto* const shared = reinterpret_cast<double*>(memory_at(base, block.scalars));
    double scalars[kMaxScalars] = {};
    if (!k.scalars.empty()) {
      // Counted by every worker and never lost, so that bias corrections keep their meaning.
      const std::atomic_ref step(shared[0]);
      scalars[0] = 1.0 + (counts ? step.fetch_add(1.0, std::memory_order_relaxed)
                                 : step.load(std::memory_order_relaxed));
      for (std::size_t i = 1; i < k.scalars.size(); ++i)
        scalars[i] = std::atomic_ref(shared[i]).load(std::memory_order_relaxed);
    }
    if (&group != group_ || &k != kernel_ || std::memcmp(scalars, before_, sizeof scalars) != 0) {
      group_ = &group;
      kernel_ = &k;
      std::memcpy(before_, scalars, sizeof scalars);
      std::memcpy(after_, scalars, sizeof scalars);
      k.prepare(group.hyper, after_, record_.coef);
    }
    if (counts)
      for (std::size_t i = 1; i < k.scalars.size(); ++i)
        std::atomic_ref(shared[i]).store(after_[i], std::memory_order_relaxed);
  }

  void open_book(const Group& group, const Block& block, std::byte* base, Task& task) {
    task.book.reset();
    task.owed.reset();
    task.share = {};
    task.number = 0;
    if (block.book_rows == 0) return;
    const Kernel& k = *block.kernel;
    const Book& book = task.book.emplace(book_of(block, base));
    task.now = book.finished();
    if (task.done == nullptr) record_.settles_after = k.idle.settles_after(group.hyper);
    if (pass_ == Pass::catch_up) {
      if (!task.has_row_list) task.share = {0, book.rows()};
    } else if (!task.has_row_list) {
      return;  // a pass before has caught up with all rows
    } else if (task.done != nullptr) {
      task.number = task.done->number;
    } else if (k.idle.owes(group.hyper)) {
      task.number = book.start(record_);
    }
    if (task.number != 0) task.share = book.share(task.number);
    std::uint64_t oldest = task.now;
    for (std::size_t i = 0; i < task.count(); ++i)
      oldest = std::min(oldest, book.paid(task.row(i)));
    if (oldest < task.now)
      task.owed.emplace(book, k, oldest, task.now, record_, task.width * task.param_bytes);
    else
      task.share = {};
  }

  std::uint32_t seed_;
  Pass pass_;
  const Unfinished* unfinished_;
  std::uint32_t tensor_ = 0;
  const Group* group_ = nullptr;
  const Kernel* kernel_ = nullptr;
  double before_[kMaxScalars] = {};
  double after_[kMaxScalars] = {};
  Record record_;
};

// A visitor that updates elements under locks. Each call is made while an object that
// hold(update, offset, n, tally) returned exists, and concerns one row or reach(update, offset, n)
// elements. Only hold() throws, before anything is written.
template <class Each>
concept Locking =
    requires(Each each, const Update& update, std::uintptr_t offset, std::size_t n, Tally& tally) {
      { each.reach(update, offset, n) } -> std::same_as<std::size_t>;
      each.hold(update, offset, n, tally);
    };

// Holds the locks of n elements, if there are any.
template <class Each>
auto hold(Each& each, const Update& update, std::uintptr_t offset, std::size_t n, Tally& tally) {
  if constexpr (Locking<Each>)
    return each.hold(update, offset, n, tally);
  else
    return std::monostate{};
}

// Calls each(update, span, offset, tally) for the rows from `at` to `end` of a task, with a book or
// not. The gradients of a row that is named more than once are added up before. `at` follows: where
// locking a row fails, it is the first row that is not done.
template <bool has_book, class Each>
void apply_rows(const Task& task, std::size_t& at, std::size_t end, Tally& tally, Each& each) {
  const std::size_t width = task.width, row_bytes = width * task.param_bytes;
  const std::size_t named = task.named();
  const auto* const grads = static_cast<const std::byte*>(task.span.grad);
  Span whole = task.span;
  if (task.has_row_list) whole.grad = nullptr;  // its gradients lie in the order of the list
  std::vector<std::byte> sum;
  std::vector<const void*> repeats;
  for (; at < end; ++at) {
    const std::size_t i = at;
    const bool is_named = !has_book || i < named;
    const std::size_t row = is_named ? task.named_row(i) : task.row(i), first = row * width;
    if constexpr (has_book)
      if (!is_named && task.rows.contains(row)) continue;  // left to whoever applies its gradient
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
    if constexpr (has_book) {
      if (task.owed) task.owed->pay(row, task, span, offset, tally, each);
      if (!is_named || grads == nullptr) continue;
      if (task.number != 0) task.book->touch(row);
    }
    each(task, span, offset, tally);
  }
}

// The same for the elements, or rows, from `at` to `end` of a task.
template <class Each>
void apply_range(const Task& task, std::size_t& at, std::size_t end, Tally& tally, Each& each) {
  if (task.is_by_rows()) {
    task.book ? apply_rows<true>(task, at, end, tally, each)
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

// Updates the book after the whole task has been applied.
inline void close_book(const Task& task, Pass pass) {
  if (!task.book) return;
  if (task.number != 0) task.book->finish();
  if (task.has_row_list) return;
  if (pass == Pass::catch_up)
    task.book->set_paid(task.now);
  else
    task.book->stir(task.now);
}

// A range of a task's elements or rows. Those before `at` are done.
struct Chunk {
  std::size_t task, begin, end, at = begin;
};

// Notes what an interrupted push has done of a task.
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

// Whether a pass has something to do with a tensor.
inline bool concerns(Pass pass, const Push& push, const Block& block, std::byte* base) {
  if (pass == Pass::update) return block.grad != nullptr;
  if (block.book_rows == 0 || (!push.catch_up && (block.grad == nullptr || block.rows != nullptr)))
    return false;
  const Book book = book_of(block, base);
  return !book.is_paid(book.finished());
}

template <class Each>
void make_pass(Pass pass, const Push& push, std::byte* base, Tally& tally, Each& each) {
  // Catching up needs no notes: a row that has been paid owes nothing.
  Unfinished* unfinished = nullptr;
  if constexpr (Locking<Each>)
    if (pass == Pass::update) unfinished = push.unfinished;
  const bool resumes = unfinished != nullptr && unfinished->is_interrupted();
  const auto for_each_block = [&](auto visit) {
    for (const Group& group : push.groups)
      for (const Block& block : group.blocks)
        if (concerns(pass, push, block, base) && !(resumes && unfinished->is_closed(block.param)))
          visit(group, block);
  };
  std::size_t blocks = 0, total = 0;
  for_each_block([&](const Group&, const Block& block) {
    ++blocks;
    total += block.touched();
  });
  if (blocks == 0) return;  // as mostly in the pass that catches up

  Preparer prepare(push, pass, resumes ? unfinished : nullptr);
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
      close_book(task, pass);
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
      struct Mine : Tally {  // added up also where the chunk fails
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
  for (const Task& task : tasks) close_book(task, pass);
}

// Stores n values, where `pulled` is known only those that differ from it. Others may read the
// memory meanwhile, or write what lies between.
template <class Word>
void store_changed(const std::byte* written, const std::byte* pulled, std::byte* to,
                   std::size_t n) {
  for (std::size_t i = 0; i < n * sizeof(Word); i += sizeof(Word)) {
    if (pulled != nullptr && std::memcmp(written + i, pulled + i, sizeof(Word)) == 0) continue;
    Word word;
    std::memcpy(&word, written + i, sizeof word);
    std::atomic_ref(*reinterpret_cast<Word*>(to + i)).store(word, std::memory_order_relaxed);
  }
}

// Brings what a worker wrote to its replica to `base`, under the locks of the elements if there are
// any. A push that finishes an interrupted one has done so before. Out of line: most pushes have no
// writes, and inlined they make the others slower.
template <class Each>
[[gnu::noinline]] void apply_writes(const Push& push, std::byte* base, Tally& tally, Each& each) {
  if (push.unfinished != nullptr && push.unfinished->is_interrupted()) return;
  for (const Write& write : push.writes) {
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

// Stores what was written, then updates every tensor of the push that has a gradient, at `base`. A
// gradient of all rows finds them all caught up with.
template <class Each>
void apply(const Push& push, std::byte* base, Tally& tally, Each each) {
  if (!push.writes.empty()) apply_writes(push, base, tally, each);
  make_pass(Pass::catch_up, push, base, tally, each);
  if (!push.catch_up) make_pass(Pass::update, push, base, tally, each);
}

// Plain vectorized stores: what a worker does that has the memory to itself, or that races.
inline void apply_racy(const Push& push, std::byte* base, Tally& tally) {
  apply(push, base, tally, [](const Update& update, const Span& span, std::uintptr_t, Tally&) {
    update.loops->racy(update.coef, span);
  });
}

}  // namespace asyncopt
