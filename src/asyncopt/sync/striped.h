// striped: a robust lock for every stripe of cache lines; a push locks one stripe after the other.
//
//   may lose updates    no
//   may tear            yes: a reader sees stripes of different versions
//   may block           yes, at a stripe that another worker is updating
//   in parts            yes
//   killed worker       leaves at most the part of its last push that it had written; the stripe it
//                       held is taken over by the next worker and counted as a repair
//   parameter and state of one element change together, under a row-wise rule those of a row; a
//   push is not atomic across stripes.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Striped {
  static constexpr const char* name = "striped";
  static constexpr Contract contract{
      .may_lose = false, .may_tear = true, .may_block = true, .replica = false, .in_parts = true};
  static constexpr bool striped = true;
  static constexpr bool publishes = false;
  static std::size_t copies(std::size_t) { return 1; }

  static Versions push(const Segment& segment, std::size_t, const Push& push, Tally& tally) {
    const std::uint64_t stripe_bytes = segment.header().stripe_bytes;
    apply(push, segment.data(), tally,
          [&](const Update& update, const Span& span, std::uintptr_t offset, Tally& t) {
            if (update.row_slots > 0) {  // the lock where it begins stands for a whole row
              const RobustLock lock(segment.stripe(offset / stripe_bytes), segment.timeout_ns(), t);
              update.loops->racy(update.coef, span);
              return;
            }
            for (std::size_t done = 0; done < span.n;) {
              const std::uintptr_t at = offset + done * update.param_bytes;
              const std::uintptr_t end = (at / stripe_bytes + 1) * stripe_bytes;
              const std::size_t n = std::min(span.n - done, (end - at) / update.param_bytes);
              const RobustLock lock(segment.stripe(at / stripe_bytes), segment.timeout_ns(), t);
              update.loops->racy(update.coef, update.part(span, done, n));
              done += n;
            }
          });
    return count_push(segment, push);
  }
  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally&) {
    return pull_torn(segment, blocks);
  }
};

}  // namespace asyncopt
