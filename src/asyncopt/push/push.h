// Pushes and pulls. A push applies the gradients of one step to parameters and state; a pull copies
// parameters out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "asyncopt/kernels/kernels.h"
#include "asyncopt/push/unfinished.h"
#include "asyncopt/store/segment.h"

namespace asyncopt {

// The memory at a position: a byte offset from `base`, or an address if base is null.
inline std::byte* memory_at(std::byte* base, std::uintptr_t position) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(base) + position);
}

// One tensor with its kernel, state and gradient. Positions are byte offsets into a segment's data,
// or addresses without a segment.
struct Block {
  const Kernel* kernel = nullptr;
  std::uintptr_t param = 0;
  std::uintptr_t slots[kMaxSlots] = {};
  std::uintptr_t scalars = 0;
  const void* grad = nullptr;  // nullptr: the tensor has no gradient and is not updated
  std::size_t n = 0;           // elements
  // A gradient of some rows: `grad` holds row_count rows of `width` elements, `rows` their indices
  // in any order. Gradients of a row that is named more than once are added up.
  const std::int64_t* rows = nullptr;
  std::size_t row_count = 0;
  std::size_t width = 0;  // 0: the tensor is one row
  // With lazy updates, the position of the table's journal (journal.h).
  std::uintptr_t journal = 0;
  std::size_t journal_rows = 0;  // 0: there is none

  std::size_t touched() const { return rows != nullptr ? row_count * width : n; }
};

// Tensors that share a rule and its hyperparameters.
struct Group {
  double hyper[kMaxHyper] = {};
  std::span<const Block> blocks;
};

// A worker's direct writes to a parameter of its replica. Elements that differ from the pulled ones
// replace those of the store before the push's gradients are applied. The others keep the store's
// values, which other workers may have updated since.
struct ReplicaWrite {
  const Block* block = nullptr;
  const std::byte* written = nullptr;  // in the memory order of the parameter
  const std::byte* pulled = nullptr;   // null: unknown, all elements count as written
};

// Under a sync without guarantees across tensors (Contract::in_parts), a push may come tensor by
// tensor, as the gradients of a model on another device arrive. The last part counts the push. A
// worker that dies before that leaves part of a push, as any killed worker may.
enum class Part { whole, some, last };

struct Push {
  std::span<const Group> groups;
  std::size_t threads = 1;      // most threads for large tensors
  std::uint32_t seed = 0;       // for stochastic rounding; must differ between pushes
  bool audit = false;           // hogwild: count lost updates
  bool skip_nonfinite = false;  // change nothing if any gradient is infinite or NaN
  std::span<const ReplicaWrite> writes = {};
  // No step: the rows that blocks name, or all, replay missed pushes. Not counted as a push.
  bool catch_up = false;
  // No step: only applies `writes`. Makes a new version and is not counted as a push.
  bool writes_only = false;
  Part part = Part::whole;
  // The worker's record of progress, kept between its pushes. A push interrupted by a LockTimeout
  // fills it, and the next push does the rest. Null: the part that was written stays, and a
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

// Thrown by a pull that timed out on a lock after it had copied parts of several versions: the
// replica is torn. After any other LockTimeout the replica is unchanged.
struct TornPull : LockTimeout {
  using LockTimeout::LockTimeout;
};

// True if no gradient of the push is infinite or NaN.
bool is_finite(const Push& push);
// Applies a push without a store and without other workers.
PushResult push_alone(const Push& push);
// Applies a push as worker `worker`, under the segment's sync. Throws SegmentError; LockTimeout,
// whose message says whether anything was written: under `striped`, part of the push may have been
// (Push::unfinished); under the other syncs, nothing was.
PushResult push(const Segment& segment, std::size_t worker, const Push& push);
// Copies parameters out; under a sync with consistent readers, all are of one version. Returns the
// version. Throws LockTimeout: the copies are unchanged, or torn if it is a TornPull.
std::uint64_t pull(const Segment& segment, std::size_t worker, std::span<const PullBlock> blocks);

}  // namespace asyncopt
