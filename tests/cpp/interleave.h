// All interleavings of two workers' loads, stores and compare-exchanges in the engine's own loops.
//
// The loops are instantiated for a storage type, `Traced`, that reports each access instead of
// making it. To find a push's next access, the push is run from its start, and its earlier accesses
// are answered as before. `Search` visits each reachable state (memory and answers) once.
//
// Adjacent loads are made in any order, and so are adjacent stores: compilers and processors may
// reorder them. Compare-exchanges keep their order.
#pragma once

#include <array>
#include <cstring>
#include <string>
#include <unordered_set>
#include <vector>

#undef ASYNCOPT_TSAN  // the search is one thread
#define ASYNCOPT_ISA interleaved
#include "asyncopt/kernels/loops.h"
#include "check.h"

namespace asyncopt {
namespace test {

inline constexpr std::size_t kWidth = 2;  // elements of a row
inline constexpr std::size_t kMostAccesses = 32;

struct Access {
  enum Kind { load, store, exchange } kind;
  std::size_t cell;
  float value;     // that is stored
  float expected;  // that the exchange replaces
};

struct Answer {
  bool is_given = false;
  bool failed = false;  // an exchange; `value` was there
  float value = 0;
};
using Answers = std::array<Answer, kMostAccesses>;

// The accesses of the push that runs, and their answers.
struct Trace {
  const Answers* answers = nullptr;
  const std::byte* cells = nullptr;
  std::size_t cell_bytes = 0, cell_count = 0;
  std::size_t n = 0;
  std::array<Access, kMostAccesses> accesses{};

  bool is_shared(const void* at) const {
    const auto* const p = static_cast<const std::byte*>(at);
    return p >= cells && p < cells + cell_count * cell_bytes;
  }
  Answer record(const void* at, Access::Kind kind, float value = 0, float expected = 0) {
    CHECK(is_shared(at) && n < kMostAccesses);
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(at) - cells);
    accesses[n] = {kind, offset / cell_bytes, value, expected};
    return (*answers)[n++];
  }
};
inline Trace trace;

// A float32 in shared memory: copying it is a load, assigning it a store.
class Traced {
 public:
  Traced(float x = 0) : value_(x) {}  // NOLINT: `narrow` converts
  Traced(const Traced& from)
      : value_(trace.is_shared(&from) ? trace.record(&from, Access::load).value : from.value_) {}
  Traced& operator=(const Traced& from) {
    if (trace.is_shared(this))
      trace.record(this, Access::store, from.value_);
    else
      value_ = from.value_;
    return *this;
  }
  float value() const { return value_; }

 private:
  float value_;
  std::uint32_t padding_[2] = {};  // a size of its own, for bits of its own
};

struct TracedBits {
  float value;
  std::uint32_t padding[2];
};
static_assert(sizeof(TracedBits) == sizeof(Traced));

inline float widen(Traced x) { return x.value(); }
inline TracedBits load_relaxed(const TracedBits* at) {
  return {trace.record(at, Access::load).value, {}};
}
inline bool compare_exchange_relaxed(TracedBits* at, TracedBits& seen, TracedBits next) {
  const Answer answer = trace.record(at, Access::exchange, next.value, seen.value);
  if (answer.failed) seen.value = answer.value;
  return !answer.failed;
}
template <class To>
To cast_bits(TracedBits from) {
  return To(from.value);
}
template <class To>
To cast_bits(const Traced& from) {
  return {from.value(), {}};
}

}  // namespace test

template <>
struct Arithmetic<test::Traced> {
  using type = float;
};
template <>
struct BitsOf<sizeof(test::Traced)> {
  using type = test::TracedBits;
};

namespace test {

inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

enum class How { racy, atomic, audit };
inline const char* name_of(How how) {
  return how == How::racy ? "racy" : how == How::atomic ? "atomic" : "audit";
}

// The cells of one element, or of one row of kWidth elements: parameters, then the slots.
template <class Rule>
struct Cells {
  static constexpr std::size_t rows = row_slots_of<Rule>;
  static constexpr std::size_t width = rows > 0 ? kWidth : 1;
  static constexpr std::size_t slots = Rule::slot_names.size();
  static constexpr std::size_t count = width * (1 + slots - rows) + rows;

  // The first cell of slot k, and the slot of a cell.
  static constexpr std::size_t slot(std::size_t k) { return width * (1 + k); }
  static constexpr std::size_t slot_of(std::size_t cell) { return cell / width - 1; }
};

template <class Rule>
using Memory = std::array<float, Cells<Rule>::count>;

// One push: its coefficients and gradients.
template <class Rule>
struct GradientPush {
  typename Rule::template Coef<float> coef;
  double step;
  std::array<float, Cells<Rule>::width> g;

  // Runs the loop; the accesses are in `trace`.
  void run(How how, const Answers& answers) const {
    using C = Cells<Rule>;
    static std::array<Traced, C::count> cells;
    std::array<Traced, C::width> grad;
    for (std::size_t i = 0; i < C::width; ++i) grad[i] = g[i];
    trace.answers = &answers;
    trace.cells = reinterpret_cast<const std::byte*>(cells.data());
    trace.cell_bytes = sizeof(Traced);
    trace.cell_count = C::count;
    trace.n = 0;
    Span span{cells.data(), grad.data(), {}, C::width, 0};
    for (std::size_t k = 0; k < C::slots; ++k) span.slots[k] = cells.data() + C::slot(k);
    Tally tally;
    if (how == How::racy)
      interleaved::racy_loop<Rule, Traced, Traced>(&coef, span);
    else if (how == How::atomic)
      interleaved::exact_loop<Rule, Traced, Traced, true>(&coef, span, tally);
    else
      interleaved::exact_loop<Rule, Traced, Traced, false>(&coef, span, tally);
  }
};

// A store, or an exchange that succeeded. `seen`: the writer's last load of the cell.
struct Write {
  std::size_t writer, cell;
  float seen, value;
};

template <class Rule, class Look>
class Search {
 public:
  // Calls look(write) at each. `pushes`: one of each writer.
  Search(How how, const std::array<GradientPush<Rule>, 2>& pushes, Look look)
      : how_(how), pushes_(pushes), look_(look) {}

  // The memory after both pushes, in every way in which it can end.
  std::vector<Memory<Rule>> run(const Memory<Rule>& start) {
    ends_.clear();
    seen_.clear();
    visit({start, {}});
    return ends_;
  }

 private:
  struct State {
    Memory<Rule> memory;
    std::array<Answers, 2> answers;
  };

  void visit(const State& state) {
    if (!seen_.insert(key(state)).second) return;
    bool is_end = true;
    for (std::size_t writer = 0; writer < 2; ++writer) {
      pushes_[writer].run(how_, state.answers[writer]);
      const Trace now = trace;
      std::size_t first = 0;
      while (first < now.n && state.answers[writer][first].is_given) ++first;
      for (std::size_t i = first; i < now.n; ++i) {
        if (now.accesses[i].kind != now.accesses[first].kind) break;
        if (i > first && now.accesses[i].kind == Access::exchange) break;
        if (state.answers[writer][i].is_given) continue;
        is_end = false;
        State next = state;
        make(writer, now, i, next);
        visit(next);
      }
    }
    if (is_end) ends_.push_back(state.memory);
  }

  void make(std::size_t writer, const Trace& now, std::size_t i, State& next) {
    const Access& access = now.accesses[i];
    Answer& answer = next.answers[writer][i];
    float& cell = next.memory[access.cell];
    answer.is_given = true;
    if (access.kind == Access::load) {
      answer.value = cell;
      return;
    }
    if (access.kind == Access::exchange && !same_bits(cell, access.expected)) {
      answer.failed = true;
      answer.value = cell;
      return;
    }
    float seen = access.expected;
    if (access.kind == Access::store)
      for (std::size_t j = 0; j < i; ++j)
        if (now.accesses[j].cell == access.cell) seen = next.answers[writer][j].value;
    cell = access.value;
    look_(Write{writer, access.cell, seen, access.value});
  }

  static std::string key(const State& state) {
    std::string bytes(reinterpret_cast<const char*>(state.memory.data()), sizeof state.memory);
    for (const Answers& answers : state.answers)
      for (const Answer& a : answers) {
        bytes += static_cast<char>(a.is_given + 2 * a.failed);
        if (a.is_given) bytes.append(reinterpret_cast<const char*>(&a.value), sizeof a.value);
      }
    return bytes;
  }

  How how_;
  std::array<GradientPush<Rule>, 2> pushes_;
  Look look_;
  std::unordered_set<std::string> seen_;
  std::vector<Memory<Rule>> ends_;
};

}  // namespace test
}  // namespace asyncopt
