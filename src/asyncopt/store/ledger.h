// Per-worker counters. Each worker has its own cache lines, so counting causes no sharing.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "asyncopt/base/counters.h"
#include "asyncopt/base/memory.h"

namespace asyncopt {

// Histogram of staleness: exact from 0 to 63, then four buckets per power of two up to 2^32.
inline constexpr std::size_t kStalenessExact = 64;
inline constexpr std::size_t kStalenessBuckets = kStalenessExact + 4 * 26;

constexpr std::size_t staleness_bucket(std::uint64_t staleness) {
  if (staleness < kStalenessExact) return static_cast<std::size_t>(staleness);
  const int top = 63 - std::countl_zero(staleness);  // >= 6
  if (top >= 32) return kStalenessBuckets - 1;
  const auto quarter = static_cast<std::size_t>(staleness >> (top - 2)) & 3;
  return kStalenessExact + 4 * static_cast<std::size_t>(top - 6) + quarter;
}
// The smallest staleness that falls into a bucket.
constexpr std::uint64_t staleness_bucket_floor(std::size_t bucket) {
  if (bucket < kStalenessExact) return bucket;
  const std::size_t above = bucket - kStalenessExact;
  return (std::uint64_t{4} + above % 4) << (above / 4 + 4);
}
static_assert(staleness_bucket(64) == 64 && staleness_bucket_floor(64) == 64);
static_assert(staleness_bucket(1000) == 79 && staleness_bucket_floor(79) == 896);

// One worker's state in a segment.
struct alignas(kCacheLine) WorkerSlot {
  std::atomic<std::uint64_t> owner{0};     // bits of the worker's ProcessId; 0: free
  std::atomic<std::uint32_t> reading{0};   // leashed: 1 + the copy being read; 0: none
  std::atomic<std::uint32_t> building{0};  // leashed: 1 + the copy being written; 0: none
  std::atomic<std::uint64_t> pulled{0};    // version at the last pull
  Counter pushes;
  Counter retries;
  Counter lock_waits;
  Counter lock_wait_ns;
  Counter lost_updates;
  Counter lost_state_updates;
  Counter skipped_nonfinite;
  Counter repairs;
  Counter unfinished;  // pushes interrupted by a LockTimeout and not finished since
  Counter staleness_sum;
  Counter staleness[kStalenessBuckets];

  void add(const Tally& tally) {
    retries.add(tally.retries);
    lost_updates.add(tally.lost_updates);
    lost_state_updates.add(tally.lost_state_updates);
    lock_waits.add(tally.lock_waits);
    lock_wait_ns.add(tally.lock_wait_ns);
    repairs.add(tally.repairs);
  }
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "shared between processes");
static_assert(sizeof(WorkerSlot) % kCacheLine == 0);

}  // namespace asyncopt
