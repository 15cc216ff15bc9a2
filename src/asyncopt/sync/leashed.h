// leashed: each push builds a new copy and publishes it by one compare-exchange of the pointer to
// the latest version (Leashed-SGD: Baekstrom et al., arXiv 2102.09032).
//
//   may lose updates    no
//   may tear            no: a pull is one whole version
//   may block           only after kRetries lost races, to let the loser publish
//   in parts            no: versions are whole
//   killed worker       leaves nothing of a push that it had not published
//   parameter and state are one version: parameters, state slots and steps are published together.
//
// `latest` is version << 16 | copy. The version is a tag, so ABA cannot occur. A slot's `reading`
// is a hazard pointer: a worker reads a copy only while `reading` names it and after it has seen
// `latest` unchanged since. A copy is reused only if it is neither latest, nor named by any
// `reading`, nor being built. With W workers, at most 2 W + 1 copies are in use, so of 2 W + 2 one
// is always free.
#pragma once

#include "asyncopt/sync/sync.h"

namespace asyncopt {

struct Leashed {
  static constexpr const char* name = "leashed";
  static constexpr Contract contract{
      .may_lose = false, .may_tear = false, .may_block = true, .replica = true, .in_parts = false};
  static constexpr bool striped = false;
  static constexpr bool publishes = true;
  static constexpr int kRetries = 4;
  static std::size_t copies(std::size_t workers) { return 2 * workers + 2; }

  static Versions push(const Segment& segment, std::size_t worker, const Push& push, Tally& tally) {
    Header& h = segment.header();
    const std::size_t mine = claim_copy(segment, worker);
    const Building release(segment, worker);
    // If the race is lost, the scalars that it counted are discarded with the copy.
    const auto attempt = [&]() -> std::uint64_t {
      const std::uint64_t latest = protect_latest(segment, worker);
      std::memcpy(segment.data(mine), segment.data(latest & 0xFFFF), h.data_bytes);
      apply_racy(push, segment.data(mine), tally);
      const std::uint64_t next = ((latest >> 16) + 1) << 16 | mine;
      std::uint64_t expected = latest;
      // The release publishes the copy's contents; pairs with the acquire in protect_latest.
      const bool published =
          h.latest.compare_exchange_strong(expected, next, std::memory_order_seq_cst);
      if (!published) ++tally.retries;
      return published ? next >> 16 : 0;
    };
    const std::uint32_t me = static_cast<std::uint32_t>(worker) + 1;
    for (int i = 0; i < kRetries && h.turn.load(std::memory_order_relaxed) == 0; ++i)
      if (const std::uint64_t version = attempt(); version != 0) return {version - 1, version};
    // Workers that see `turn` queue at the lock; those already racing can win at most once each.
    const RobustLock lock(h.mutex, segment.timeout_ns(), tally);
    h.turn.store(me, std::memory_order_relaxed);
    std::uint64_t version = 0;
    while ((version = attempt()) == 0) {
    }
    h.turn.store(0, std::memory_order_relaxed);
    return {version - 1, version};
  }

  static std::uint64_t pull(const Segment& segment, std::size_t worker,
                            std::span<const PullBlock> blocks, Tally&) {
    const std::uint64_t latest = protect_latest(segment, worker);
    const std::byte* const data = segment.data(latest & 0xFFFF);
    for (const PullBlock& block : blocks)
      if (block.bytes != 0)  // a tensor without elements has no address
        std::memcpy(block.replica, data + block.param, block.bytes);
    segment.worker(worker).reading.store(0, std::memory_order_release);
    return latest >> 16;
  }

 private:
  // Frees the copy being built and the one being read, also when a push fails.
  class Building {
   public:
    Building(const Segment& segment, std::size_t worker) : slot_(segment.worker(worker)) {}
    ~Building() {
      slot_.reading.store(0, std::memory_order_release);
      slot_.building.store(0, std::memory_order_release);
    }
    Building(const Building&) = delete;
    Building& operator=(const Building&) = delete;

   private:
    WorkerSlot& slot_;
  };

  static std::uint64_t protect_latest(const Segment& segment, std::size_t worker) {
    Header& h = segment.header();
    std::uint64_t latest = h.latest.load(std::memory_order_acquire);
    for (;;) {
      // Sequentially consistent, like the scan in claim_copy: either the scan sees this name, or
      // the second load sees that the copy is no longer the latest.
      segment.worker(worker).reading.store(static_cast<std::uint32_t>(latest & 0xFFFF) + 1,
                                           std::memory_order_seq_cst);
      const std::uint64_t again = h.latest.load(std::memory_order_seq_cst);
      if (again == latest) return latest;
      latest = again;
    }
  }

  // Claims a copy that is not latest and that no worker reads or builds. Two workers may pick the
  // same one, so each names its choice in `building` first and checks the others afterwards.
  static std::size_t claim_copy(const Segment& segment, std::size_t worker) {
    Header& h = segment.header();
    WorkerSlot& me = segment.worker(worker);
    for (std::size_t i = worker;; ++i) {
      const std::size_t copy = i % h.copies;
      const auto name = static_cast<std::uint32_t>(copy) + 1;
      me.building.store(name, std::memory_order_seq_cst);
      const std::uint64_t latest = h.latest.load(std::memory_order_seq_cst);
      bool free = (latest & 0xFFFF) != copy;
      for (std::size_t w = 0; free && w < h.workers; ++w) {
        const WorkerSlot& other = segment.worker(w);
        free = other.reading.load(std::memory_order_seq_cst) != name &&
               (w == worker || other.building.load(std::memory_order_seq_cst) != name);
      }
      // A version published during the scan may have been this copy, with readers that it missed.
      if (free && h.latest.load(std::memory_order_seq_cst) == latest) return copy;
    }
  }
};

}  // namespace asyncopt
