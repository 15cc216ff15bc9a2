// seqlock: writers take turns, readers copy and retry if a writer came between (Boehm, MSPC 2012).
//
//   may lose updates    no
//   may tear            no: a pull is one whole version
//   may block           writers yes; readers retry kTries times and then take the writers' lock
//   killed worker       leaves at most the part of its last push that it had written; the next
//                       writer takes the lock over, counts a repair and makes the sequence even
//   parameter and state change together, push by push: the result is that of some serial order.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Seqlock {
  static constexpr const char* name = "seqlock";
  static constexpr Contract contract{
      .may_lose = false, .may_tear = false, .may_block = true, .replica = true};
  static constexpr bool striped = false;
  static constexpr int kTries = 16;
  static std::size_t copies(std::size_t) { return 1; }

  static Versions push(const Segment& segment, std::size_t, const Push& push, Tally& tally) {
    Header& h = segment.header();
    const RobustLock lock(h.mutex, segment.timeout_ns(), tally);
    // Odd from here on, also if a dead writer left it odd.
    const std::uint64_t odd = h.sequence.load(std::memory_order_relaxed) | 1;
    h.sequence.store(odd, std::memory_order_relaxed);
    // No store below is seen before the odd sequence; pairs with the acquire fence in pull.
    std::atomic_thread_fence(std::memory_order_release);
    apply_racy(push, segment.data(), tally);
    const Versions versions = count_push(segment);
    h.sequence.store(odd + 1, std::memory_order_release);  // pairs with the acquire load in pull
    return versions;
  }

  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally& tally) {
    Header& h = segment.header();
    for (int i = 0; i < kTries; ++i) {
      const std::uint64_t before = h.sequence.load(std::memory_order_acquire);
      if (before % 2 == 0) {
        const std::uint64_t version = h.version.load(std::memory_order_relaxed);
        for (const PullBlock& block : blocks)
          copy_out(segment.data() + block.param, block.replica, block.bytes);
        // No load above is satisfied after the second look at the sequence.
        std::atomic_thread_fence(std::memory_order_acquire);
        if (h.sequence.load(std::memory_order_relaxed) == before) return version;
      }
      ++tally.retries;
      pause();
    }
    const RobustLock lock(h.mutex, segment.timeout_ns(), tally);
    if (const std::uint64_t left = h.sequence.load(std::memory_order_relaxed); left % 2 != 0)
      h.sequence.store(left + 1, std::memory_order_release);  // a dead writer's
    return pull_torn(segment, blocks);
  }
};

}  // namespace asyncopt
