// Missed steps of the rows of one table at the time of a push, prepared for replay one by one or
// many at once.
#pragma once

#include <vector>

#include "asyncopt/kernels/kernels.h"
#include "asyncopt/push/journal.h"
#include "asyncopt/store/ledger.h"

namespace asyncopt {

// The loops and coefficients that update a span, with a gradient or without one.
struct Update {
  const Loops* loops;
  const std::byte* coef;
  std::size_t param_bytes, state_bytes, element_slots, row_slots;
  std::size_t width;  // elements in a row

  // Elements [begin, begin + n) of `whole`.
  Span part(const Span& whole, std::size_t begin, std::size_t n) const {
    Span some = whole;
    some.param = static_cast<std::byte*>(whole.param) + begin * param_bytes;
    if (whole.grad != nullptr)
      some.grad = static_cast<const std::byte*>(whole.grad) + begin * param_bytes;
    const auto slot = [&](std::size_t k, std::size_t i) {
      some.slots[k] = static_cast<std::byte*>(whole.slots[k]) + i * state_bytes;
    };
    for (std::size_t k = 0; k < element_slots; ++k) slot(k, begin);
    for (std::size_t k = 0; k < row_slots; ++k) slot(element_slots + k, begin / width);
    some.n = n;
    some.seed = noise(whole.seed, static_cast<std::uint32_t>(begin));
    return some;
  }
};

class MissedSteps {
 public:
  // For rows to which at least `oldest` of the `now` finished pushes were applied. A push whose
  // record is no longer in the ring is replayed with the coefficients of `own`.
  MissedSteps(const Journal& journal, const Kernel& kernel, std::uint64_t oldest, std::uint64_t now,
              const Record& own, std::size_t row_bytes);

  // Replays the steps that a row missed. `span` is the row; its gradient is not read.
  template <class Each>
  void replay(std::size_t row, const Update& update, Span span, std::uintptr_t offset, Tally& tally,
              Each& each) const {
    Journal::Claim claim;
    if (!journal_.claim(row, now_, claim)) return;
    const std::uint64_t from = claim.applied > oldest_ ? claim.applied - oldest_ : 0;  // in steps
    const std::uint64_t missed = steps_ - from;
    // Number of steps replayed one by one. Idle steps since the row's last gradient count already.
    std::uint64_t single = linear_after_ > claim.idle ? linear_after_ - claim.idle : 0;
    if (linear_after_ >= Journal::kRest || single > missed) single = missed;
    Update step = update;
    const std::uint32_t seed = span.seed;
    span.grad = zeros_.data();
    for (std::uint64_t i = from; i < from + single; ++i) {
      step.coef = records_[i].coef;
      span.seed = noise(seed, static_cast<std::uint32_t>(i));
      each(step, span, offset, tally);
    }
    if (single == missed) return;
    // Replay the others at once, by a linear map.
    step.loops = update.loops->linear;
    step.coef = maps_.data() + (from + single) * map_bytes_;
    span.seed = noise(seed, static_cast<std::uint32_t>(steps_));
    each(step, span, offset, tally);
  }

 private:
  Journal journal_;
  std::uint64_t oldest_, now_, steps_;  // steps_: from oldest_ to now_
  std::uint64_t linear_after_ = 0;      // largest of these steps
  std::size_t map_bytes_;
  std::vector<Record> records_;   // one per step
  std::vector<std::byte> maps_;   // one per step: the map of this step and all later ones
  std::vector<std::byte> zeros_;  // a row of zero gradients
};

}  // namespace asyncopt
