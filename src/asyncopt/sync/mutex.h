// mutex: one robust lock around each push.
//
//   may lose updates    no
//   may tear            yes: workers read parameters to compute gradients without the lock
//   may block           yes, while another worker pushes
//   in parts            no: a push holds the lock once, so the result stays that of a serial order
//   killed worker       leaves at most the part of its last push that it had written; the lock is
//                       taken over by the next worker and counted as a repair
//   parameter and state change together, push by push: the result is that of some serial order.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Mutex {
  static constexpr const char* name = "mutex";
  static constexpr Contract contract{
      .may_lose = false, .may_tear = true, .may_block = true, .replica = false, .in_parts = false};
  static constexpr bool striped = false;
  static constexpr bool publishes = false;
  static std::size_t copies(std::size_t) { return 1; }

  static Versions push(const Segment& segment, std::size_t, const Push& push, Tally& tally) {
    const RobustLock lock(segment.header().mutex, segment.timeout_ns(), tally);
    apply_racy(push, segment.data(), tally);
    return count_push(segment, push);
  }
  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally& tally) {
    const RobustLock lock(segment.header().mutex, segment.timeout_ns(), tally);
    return pull_torn(segment, blocks);
  }
};

}  // namespace asyncopt
