// Shared code of all syncs. A sync is a struct of
//   name, contract            facts
//   striped                   asks the segment for a lock per stripe
//   publishes                 the version is that of the copy that `latest` names
//   copies(workers)           how many whole versions of the data the segment holds
//   push(...)                 applies a push and counts it; returns the versions before and after
//   pull(...)                 copies parameters to a replica; returns their version
// and opens with its contract in words.
#pragma once

#include "asyncopt/base/atomic.h"
#include "asyncopt/base/wait.h"
#include "asyncopt/push/apply.h"
#include "asyncopt/store/sync_info.h"

namespace asyncopt {

// One that only catches up with rows makes no version, nor does a part that others follow.
inline Versions count_push(const Segment& segment, const Push& push) {
  const std::uint64_t one = push.catch_up || push.part == Part::some ? 0 : 1;
  const std::uint64_t before = segment.header().version.fetch_add(one, std::memory_order_relaxed);
  return {before, before + one};
}

// A copy without regard to writers. Returns the version at its start.
inline std::uint64_t pull_torn(const Segment& segment, std::span<const PullBlock> blocks) {
  const std::uint64_t version = segment.header().version.load(std::memory_order_relaxed);
  for (const PullBlock& block : blocks)
    copy_out(segment.data() + block.param, block.replica, block.bytes);
  return version;
}

}  // namespace asyncopt
