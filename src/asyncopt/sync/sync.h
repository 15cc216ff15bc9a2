// Shared code of all syncs. A sync is a struct of
//   name, contract            its name and guarantees
//   striped                   needs a lock per stripe in the segment
//   publishes                 the version is that of the copy that `latest` names
//   copies(workers)           number of whole versions of the data in the segment
//   push(...)                 applies a push and counts it; returns the versions before and after
//   pull(...)                 copies parameters to a replica; returns their version
// and its header begins with its guarantees in words.
#pragma once

#include "asyncopt/base/atomic.h"
#include "asyncopt/base/wait.h"
#include "asyncopt/push/apply.h"
#include "asyncopt/store/sync_info.h"

namespace asyncopt {

// Counts a push as a version, unless it only replays rows or further parts of it follow.
inline Versions count_push(const Segment& segment, const Push& push) {
  const std::uint64_t one = push.catch_up || push.part == Part::some ? 0 : 1;
  const std::uint64_t before = segment.header().version.fetch_add(one, std::memory_order_relaxed);
  return {before, before + one};
}

// Copies parameters without synchronization with writers. Returns the version at the start.
inline std::uint64_t pull_torn(const Segment& segment, std::span<const PullBlock> blocks) {
  const std::uint64_t version = segment.header().version.load(std::memory_order_relaxed);
  for (const PullBlock& block : blocks)
    copy_out(segment.data() + block.param, block.replica, block.bytes);
  return version;
}

}  // namespace asyncopt
