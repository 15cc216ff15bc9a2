// seqlock: one writer at a time; readers copy and retry if a writer interfered (Boehm, MSPC 2012).
//
//   may lose updates    no
//   may tear            no: a pull is one whole version
//   may block           writers yes; readers retry kTries times and then take the writers' lock
//   in parts            no: versions are whole
//   LockTimeout         a pull may leave the replica torn; it then throws TornPull
//   killed worker       leaves nothing of a push that it had not finished: the next owner of the
//                       lock, reader or writer, restores the previous version and counts a repair
//   parameter and state change together, push by push: the result is that of some serial order.
//
// A writer first copies all data to the segment's second copy and then stores the version of that
// copy in `intent`. Until intent is 0 again, the data may be half-written. The store of 0 commits
// the push, so it precedes the even sequence.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Seqlock {
  static constexpr const char* name = "seqlock";
  static constexpr Contract contract{
      .may_lose = false, .may_tear = false, .may_block = true, .replica = true, .in_parts = false};
  static constexpr bool striped = false;
  static constexpr bool publishes = false;
  static constexpr int kTries = 16;
  static std::size_t copies(std::size_t) { return 2; }

  static Versions push(const Segment& segment, std::size_t, const Push& push, Tally& tally) {
    Header& h = segment.header();
    const Owner owner(segment, tally);
    std::memcpy(segment.data(1), segment.data(0), h.data_bytes);
    h.intent.store(h.version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    begin_write(h);
    apply_racy(push, segment.data(), tally);
    const Versions versions = count_push(segment, push);
    end_write(h);
    return versions;
  }

  static std::uint64_t pull(const Segment& segment, std::size_t, std::span<const PullBlock> blocks,
                            Tally& tally) {
    Header& h = segment.header();
    bool is_torn = false;
    for (int i = 0; i < kTries; ++i) {
      const std::uint64_t before = h.sequence.load(std::memory_order_acquire);
      if (before % 2 == 0) {
        const std::uint64_t version = h.version.load(std::memory_order_relaxed);
        for (const PullBlock& block : blocks)
          copy_out(segment.data() + block.param, block.replica, block.bytes);
        // No load above is reordered after the second load of the sequence.
        std::atomic_thread_fence(std::memory_order_acquire);
        if (h.sequence.load(std::memory_order_relaxed) == before) return version;
        is_torn = true;
      }
      ++tally.retries;
      pause();
    }
    try {
      const Owner owner(segment, tally);
      return pull_torn(segment, blocks);
    } catch (const LockTimeout& timeout) {
      if (!is_torn) throw;
      throw TornPull(std::string(timeout.what()) +
                     "; the replica has parts of several versions now: pull again");
    }
  }

 private:
  // Holds the lock. The constructor restores the data if the last owner did not finish its push.
  class Owner {
   public:
    Owner(const Segment& segment, Tally& tally)
        : lock_(segment.header().mutex, segment.timeout_ns(), tally) {
      Header& h = segment.header();
      const std::uint64_t intent = h.intent.load(std::memory_order_acquire);
      if (intent == 0 && h.sequence.load(std::memory_order_relaxed) % 2 == 0) return;
      if (!lock_.repaired()) ++tally.repairs;  // the last owner threw an exception
      if (intent != 0) {
        begin_write(h);
        copy_in(segment.data(1), segment.data(0), h.data_bytes);
        h.version.store(intent - 1, std::memory_order_relaxed);
      }
      end_write(h);
    }

   private:
    const RobustLock lock_;
  };

  static void begin_write(Header& h) {
    h.sequence.store(h.sequence.load(std::memory_order_relaxed) | 1, std::memory_order_relaxed);
    // No store to the data is visible before the odd sequence; pairs with the acquire fence in
    // pull.
    std::atomic_thread_fence(std::memory_order_release);
  }
  static void end_write(Header& h) {
    h.intent.store(0, std::memory_order_release);  // pairs with the acquire in Owner
    // Pairs with the acquire load in pull.
    h.sequence.store(h.sequence.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
};

}  // namespace asyncopt
