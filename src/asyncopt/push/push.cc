#include "asyncopt/push/push.h"

#include <stdexcept>

#include "asyncopt/push/apply.h"
#include "asyncopt/store/sync_info.h"

namespace asyncopt {

namespace {

// Adds the tally of a push or pull to the ledger, even if it ends in an exception.
struct Counting {
  WorkerSlot& slot;
  Tally tally;
  ~Counting() { slot.add(tally); }
};

}  // namespace

bool is_finite(const Push& push) {
  for (const Group& group : push.groups)
    for (const Block& block : group.blocks) {
      if (block.grad == nullptr) continue;
      const std::size_t n = block.touched();
      const auto check = [&](std::size_t begin) {
        const auto* const at =
            static_cast<const std::byte*>(block.grad) + begin * block.kernel->param_bytes;
        return block.kernel->loops.finite(at, std::min(kChunk, n - begin));
      };
      if (push.threads == 1 || n < kParallel) {
        for (std::size_t begin = 0; begin < n; begin += kChunk)
          if (!check(begin)) return false;
        continue;
      }
      std::atomic<bool> finite{true};
      parallel_for((n + kChunk - 1) / kChunk, push.threads, [&](std::size_t i) {
        if (!check(i * kChunk)) finite.store(false, std::memory_order_relaxed);
      });
      if (!finite.load(std::memory_order_relaxed)) return false;
    }
  return true;
}

namespace {

// Clears the record of a push that was abandoned between its parts: a tensor of it comes again.
void forget_given_up(Unfinished& unfinished, const Push& push) {
  if (unfinished.is_interrupted()) return;
  for (const Group& group : push.groups)
    for (const Block& block : group.blocks)
      if (block.grad != nullptr && unfinished.is_closed(block.param)) return unfinished.clear();
}

// Counts a newly unfinished push in the ledger. Returns the text that the LockTimeout's message
// adds.
std::string outcome(WorkerSlot& slot, Unfinished* unfinished, bool was_interrupted, bool in_parts) {
  if (unfinished == nullptr) {
    if (!in_parts) return "";
    slot.unfinished.add(1);
    return "; part of this push may have been written";
  }
  unfinished->interrupt();
  if (!unfinished->is_interrupted()) return "; nothing of this step was written: call step() again";
  if (!was_interrupted) slot.unfinished.add(1);
  return "; part of this step was written: call step() again, which updates only the rest";
}

}  // namespace

PushResult push_alone(const Push& push) {
  if (push.skip_nonfinite && !is_finite(push)) return {.skipped = true};
  Tally tally;
  apply_racy(push, nullptr, tally);
  return {};
}

PushResult push(const Segment& segment, std::size_t worker, const Push& push) {
  WorkerSlot& slot = segment.worker(worker);
  const SyncInfo& sync = sync_info(segment.header().sync);
  if (push.part != Part::whole && (!sync.contract->in_parts || push.skip_nonfinite))
    throw std::invalid_argument(
        "push: expected whole pushes under a sync that promises them, and where non-finite "
        "gradients are skipped; got a part");
  if (push.skip_nonfinite && !is_finite(push)) {
    slot.skipped_nonfinite.add(1);
    return {.skipped = true, .version = segment.version()};
  }
  Counting counting{slot, {}};
  const bool is_step = !push.catch_up && !push.writes_only;
  Unfinished* const unfinished = is_step ? push.unfinished : nullptr;
  if (unfinished != nullptr) forget_given_up(*unfinished, push);
  const bool was_interrupted = unfinished != nullptr && unfinished->is_interrupted();
  Versions versions;
  try {
    versions = sync.push(segment, worker, push, counting.tally);
  } catch (const LockTimeout& timeout) {
    if (!is_step) throw;
    const bool in_parts = sync.striped;
    throw LockTimeout(timeout.what() + outcome(slot, unfinished, was_interrupted, in_parts));
  }
  if (push.part == Part::some && sync.striped && unfinished != nullptr)
    for (const Group& group : push.groups)
      for (const Block& block : group.blocks)
        if (block.grad != nullptr) unfinished->close(block.param);
  if (push.catch_up || push.part == Part::some) return {.version = versions.after};
  if (push.writes_only) {  // a worker's own version does not make its gradients stale
    slot.pulled.store(slot.pulled.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return {.version = versions.after};
  }
  if (unfinished != nullptr) unfinished->clear();
  if (was_interrupted) slot.unfinished.add(~std::uint64_t{0});  // one less
  slot.pushes.add(1);
  const std::uint64_t pulled = slot.pulled.load(std::memory_order_relaxed);
  const std::uint64_t staleness = versions.before > pulled ? versions.before - pulled : 0;
  slot.staleness[staleness_bucket(staleness)].add(1);
  slot.staleness_sum.add(staleness);
  // Workers that compute in place compute the next gradient from the current version.
  if (!sync.contract->replica) slot.pulled.store(versions.after, std::memory_order_relaxed);
  return {.version = versions.after, .staleness = staleness};
}

std::uint64_t pull(const Segment& segment, std::size_t worker, std::span<const PullBlock> blocks) {
  WorkerSlot& slot = segment.worker(worker);
  Counting counting{slot, {}};
  const std::uint64_t version =
      sync_info(segment.header().sync).pull(segment, worker, blocks, counting.tally);
  slot.pulled.store(version, std::memory_order_relaxed);
  return version;
}

}  // namespace asyncopt
