// hogwild: no synchronization (Niu et al., arXiv 1106.5730).
//
//   may lose updates    yes: of two workers that write an element at once, one is lost
//   may tear            yes: a reader sees elements of different versions, never half an element
//   may block           no
//   in parts            yes
//   killed worker       leaves at most the part of its last push that it had written
//   parameter and state each element of each tensor races on its own. The denominators of adaptive
//                       rules are computed from the worker's own copy of the second moment, which
//                       always includes its own gradient: a step stays bounded whatever others
//                       write.
//
// With `audit`, every store is a compare-exchange whose failure drops the update of that value and
// counts it: the ledger then says exactly how many element updates the race cost.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Hogwild {
  static constexpr const char* name = "hogwild";
  static constexpr Contract contract{
      .may_lose = true, .may_tear = true, .may_block = false, .replica = false, .in_parts = true};
  static constexpr bool striped = false;
  static constexpr bool publishes = false;
  static std::size_t copies(std::size_t) { return 1; }

  static Versions push(const Segment& segment, std::size_t, const Push& push, Tally& tally) {
    if (push.audit)
      apply(push, segment.data(), tally,
            [](const Update& update, const Span& span, std::uintptr_t, Tally& t) {
              update.loops->audit(update.coef, span, t);
            });
    else
      apply_racy(push, segment.data(), tally);
    return count_push(segment, push);
  }
  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally&) {
    return pull_torn(segment, blocks);
  }
};

}  // namespace asyncopt
