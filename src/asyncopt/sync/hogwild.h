// hogwild: no synchronization (Niu et al., arXiv 1106.5730).
//
//   may lose updates    yes: if two workers write an element at once, one update is lost
//   may tear            yes: a reader sees elements of different versions, never half an element
//   may block           no
//   in parts            yes
//   killed worker       leaves at most the part of its last push that it had written
//   parameter and state each element of each tensor and of each state slot races independently: a
//                       worker may read one slot before and another slot after another worker's
//                       push, and the slots in memory may stay such a mixture. State stays finite
//                       and steps stay bounded nevertheless (below).
//
// Largest change of an element by one push, for any number of workers, any order of loads and
// stores (so on any processor), and any updates lost; lr after its decay, weight decay aside:
//
//   SGD, ASGD           lr |g|; with momentum the sum of past |g|, weighted by momentum^age
//   Adam, AdamW         max(2 K, 20) lr, where K lr is the largest serial step: 7.3 lr for the
//                       default betas (rules.h). No bound where beta1^2 >= beta2, as in a serial
//                       run
//   Adagrad             lr: the denominator includes the worker's own gradient
//   RMSprop             lr / sqrt(1 - alpha), for the same reason; with momentum 1 / (1 - momentum)
//                       times that. Centered: as a serial run, up to sqrt(2^25) times that in
//                       float32 (2^54 in float64), where the variance is nearly zero
//   Adadelta            lr sqrt((acc_delta + eps) / (1 - rho)); acc_delta grows at most by the
//                       factor 1 + rho and eps a push, as in a serial run
//   row-wise            sqrt(width) times the bound of the rule; Adagrad: twice that
//
// A bounded step may still be wrong: a second moment that lost its largest update is too small, and
// steps are then nearer to the bound until the first moment has decayed.
//
// With `audit`, every store is a compare-exchange. A failure drops the update of that value and
// counts it, so the ledger holds the exact number of element updates lost to races.
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
