// What a push and a pull are: the gradients of one step, and where they go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "asyncopt/kernels.h"
#include "asyncopt/segment.h"
#include "asyncopt/unfinished.h"

namespace asyncopt {

// The memory at a position: a byte offset from `base`, or an address where base is null.
inline std::byte* memory_at(std::byte* base, std::uintptr_t position) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(base) + position);
}

// One tensor and what updates it. Positions are byte offsets into a segment's data, or addresses
// where there is none.
struct Block {
  const Kernel* kernel = nullptr;
  std::uintptr_t param = 0;
  std::uintptr_t slots[kMaxSlots] = {};
  std::uintptr_t scalars = 0;
  const void* grad = nullptr;  // nullptr: this tensor has no gradient and is left alone
  std::size_t n = 0;           // elements
  // A gradient of some rows only: grad holds row_count rows of `width` elements, rows their
  // indices, in any order; of a row that is named more than once the gradients are added up.
  const std::int64_t* rows = nullptr;
  std::size_t row_count = 0;
  std::size_t width = 0;  // 0: the tensor is one row
  // Where rows that no gradient names shall end as if zero gradients did: their book (book.h).
  std::uintptr_t book = 0;
  std::size_t book_rows = 0;  // 0: there is none

  std::size_t touched() const { return rows != nullptr ? row_count * width : n; }
};

// Tensors that share a rule and its hyperparameters.
struct Group {
  double hyper[kMaxHyper] = {};
  std::span<const Block> blocks;
};

// What a worker itself wrote to a parameter of its replica. Elements that differ from those that it
// pulled replace those of the store, before the push's gradients are applied; the others stay what
// other workers have made of them since.
struct Write {
  const Block* block = nullptr;
  const std::byte* written = nullptr;  // in the memory order of the parameter
  const std::byte* pulled = nullptr;   // null: not known, so that all elements count as written
};

// A push may come tensor by tensor, as the gradients of a model on another device arrive: under a
// sync that promises nothing across tensors anyway (Contract::in_parts). With the last it is
// counted as one; a worker that dies before leaves what any dead one may: part of a push.
enum class Part { whole, some, last };

struct Push {
  std::span<const Group> groups;
  std::size_t threads = 1;      // that may work on large tensors
  std::uint32_t seed = 0;       // of the stochastic rounding; another one for every push
  bool audit = false;           // hogwild: count lost updates
  bool skip_nonfinite = false;  // leave everything as it is if any gradient is infinite or NaN
  std::span<const Write> writes = {};
  // No step: the rows that blocks name, or all, are paid what they owe. Not counted as a push.
  bool catch_up = false;
  // No step: only the writes. It makes a version and is not counted as a push.
  bool writes_only = false;
  Part part = Part::whole;
  // The worker's, kept between its pushes. A push that a LockTimeout ends in the middle records its
  // progress here, and the next one does the rest. Null: the part that was written stays, and a
  // repeated push applies it twice.
  Unfinished* unfinished = nullptr;
};

struct PushResult {
  bool skipped = false;
  std::uint64_t version = 0;    // the store's, after this push
  std::uint64_t staleness = 0;  // pushes of others between this worker's last pull and this push
};

// One parameter on its way to a replica.
struct PullBlock {
  std::uintptr_t param = 0;  // offset in the segment's data
  void* replica = nullptr;
  std::size_t bytes = 0;
};

// A pull that did not get a lock in time, after it had copied parts of several versions: the
// replica is torn. Where the message is that of another LockTimeout, it is as it was.
struct TornPull : LockTimeout {
  using LockTimeout::LockTimeout;
};

// Whether no gradient of the push is infinite or NaN.
bool is_finite(const Push& push);
// Alone: no store, no other worker.
PushResult push_alone(const Push& push);
// Under the segment's sync, as worker `worker`. Throws SegmentError; LockTimeout, whose message
// says whether anything was written: under `striped` part of the push may have been
// (Push::unfinished), under the other syncs nothing was.
PushResult push(const Segment& segment, std::size_t worker, const Push& push);
// Copies parameters out; under a sync with consistent readers, all of one version. Returns the
// version. Throws LockTimeout: the copies are as they were, or, if it is a TornPull, torn.
std::uint64_t pull(const Segment& segment, std::size_t worker, std::span<const PullBlock> blocks);

}  // namespace asyncopt
