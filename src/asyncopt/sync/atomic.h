// atomic: every value of every element is committed by compare-exchange, as in PASSCoDe-Atomic
// (Hsieh et al., ICML 2015).
//
//   may lose updates    no
//   may tear            yes: a reader sees elements of different versions
//   may block           no: a failed exchange means that another worker's succeeded
//   in parts            yes
//   killed worker       leaves at most the part of its last push that it had written
//   parameter and state no update of a parameter element or of a state element is lost, but an
//                       element's parameter and state are committed one after the other (state
//                       first), so another worker's update may be committed in between. State stays
//                       finite and steps stay within the bounds of hogwild.h.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Atomic {
  static constexpr const char* name = "atomic";
  static constexpr Contract contract{
      .may_lose = false, .may_tear = true, .may_block = false, .replica = false, .in_parts = true};
  static constexpr bool striped = false;
  static constexpr bool publishes = false;
  static std::size_t copies(std::size_t) { return 1; }

  static Versions push(const Segment& segment, std::size_t, const Push& push, Tally& tally) {
    apply(push, segment.data(), tally,
          [](const Update& update, const Span& span, std::uintptr_t, Tally& t) {
            update.loops->atomic(update.coef, span, t);
          });
    return count_push(segment, push);
  }
  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally&) {
    return pull_torn(segment, blocks);
  }
};

}  // namespace asyncopt
