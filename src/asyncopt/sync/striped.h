// striped: one robust lock per stripe of cache lines. A push locks one stripe after the other, or,
// for rows, all stripes of a row.
//
//   may lose updates    no
//   may tear            yes: a reader sees stripes of different versions
//   may block           yes, at a stripe that another worker is updating
//   LockTimeout         leaves the part of the push that was written before: pushes are not atomic,
//                       and other workers' writes since make an exact undo impossible. The worker's
//                       next push finishes it, with the same gradients or with others: an element,
//                       or row, takes one gradient per counted push, never two. Until then the
//                       ledger counts it as unfinished, not as a push.
//   in parts            yes
//   killed worker       leaves at most the part of its last push that it had written; the stripe it
//                       held is taken over by the next worker and counted as a repair
//   parameter and state of one element change together, under a row-wise rule those of a row; a
//   push is not atomic across stripes.
#pragma once

#include <bit>

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
    apply(push, segment.data(), tally, Stripes{segment});
    return count_push(segment, push);
  }
  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally&) {
    return pull_torn(segment, blocks);
  }

 private:
  // Visitor of `apply` (apply.h, Locking): updates the elements of one stripe, or a whole row,
  // while it holds their locks.
  class Stripes {
   public:
    explicit Stripes(const Segment& segment)
        : segment_(segment), shift_(std::countr_zero(segment.header().stripe_bytes)) {}

    std::size_t reach(const Update& update, std::uintptr_t at, std::size_t most) const {
      const std::uintptr_t end = ((at >> shift_) + 1) << shift_;
      return std::min(most, (end - at) / update.param_bytes);
    }

    class Held {
     public:
      Held(const Segment& segment, std::size_t first, std::size_t count, Tally& tally)
          : segment_(segment), first_(first) {
        try {
          for (; held_ < count; ++held_)
            segment.stripe(first + held_).lock(segment.timeout_ns(), tally);
        } catch (...) {
          unlock();
          throw;
        }
      }
      ~Held() { unlock(); }
      Held(const Held&) = delete;
      Held& operator=(const Held&) = delete;

     private:
      void unlock() {
        while (held_ > 0) segment_.stripe(first_ + --held_).unlock();
      }

      const Segment& segment_;
      std::size_t first_, held_ = 0;
    };

    // Locks are taken in memory order, so deadlock cannot occur. Under a row-wise rule, the lock of
    // a row's first stripe protects the whole row.
    Held hold(const Update& update, std::uintptr_t at, std::size_t n, Tally& tally) const {
      const std::size_t first = at >> shift_;
      const std::size_t last =
          update.row_slots > 0 || n == 0 ? first : (at + n * update.param_bytes - 1) >> shift_;
      return Held(segment_, first, last - first + 1, tally);
    }

    void operator()(const Update& update, const Span& span, std::uintptr_t, Tally&) const {
      update.loops->racy(update.coef, span);
    }

   private:
    const Segment& segment_;
    int shift_;  // a stripe's bytes are a power of two
  };
};

}  // namespace asyncopt
