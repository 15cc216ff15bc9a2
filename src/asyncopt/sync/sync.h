// What all syncs share. A sync is a struct of
//   name, contract            facts
//   striped                   asks the segment for a lock per stripe
//   publishes                 the version is that of the copy that `latest` names
//   copies(workers)           how many whole versions of the data the segment holds
//   push(...)                 applies a push and counts it; returns the versions before and after
//   pull(...)                 copies parameters to a replica; returns their version
// and opens with its contract in words.
#pragma once

#include "asyncopt/base/wait.h"
#include "asyncopt/push/apply.h"

namespace asyncopt {

struct Contract {
  bool may_lose;   // an update can be overwritten by another worker's
  bool may_tear;   // a reader can see parts of different versions
  bool may_block;  // a worker can wait for another one
  bool replica;    // workers compute on private copies that they pull
  bool in_parts;   // a push may come tensor by tensor: nothing is promised across tensors
};

// The store's version as a push found and left it.
struct Versions {
  std::uint64_t before, after;
};

// One that only catches up with rows makes no version, nor does a part that others follow.
inline Versions count_push(const Segment& segment, const Push& push) {
  const std::uint64_t one = push.catch_up || push.part == Part::some ? 0 : 1;
  const std::uint64_t before = segment.header().version.fetch_add(one, std::memory_order_relaxed);
  return {before, before + one};
}

// Reads memory that may be written meanwhile, in atomic words: no byte is read twice or invented.
inline void copy_out(const std::byte* from, void* to, std::size_t bytes) {
  auto* out = static_cast<std::byte*>(to);
  std::size_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const std::uint64_t word =
        __atomic_load_n(reinterpret_cast<const std::uint64_t*>(from + i), __ATOMIC_RELAXED);
    std::memcpy(out + i, &word, sizeof word);
  }
  for (; i < bytes; ++i)
    out[i] = static_cast<std::byte>(
        __atomic_load_n(reinterpret_cast<const unsigned char*>(from + i), __ATOMIC_RELAXED));
}

// The same in the other direction, into memory that may be read meanwhile.
inline void copy_in(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::size_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, from + i, sizeof word);
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(to + i), word, __ATOMIC_RELAXED);
  }
  for (; i < bytes; ++i)
    __atomic_store_n(reinterpret_cast<unsigned char*>(to + i), static_cast<unsigned char>(from[i]),
                     __ATOMIC_RELAXED);
}

// A copy without regard to writers. Returns the version at its start.
inline std::uint64_t pull_torn(const Segment& segment, std::span<const PullBlock> blocks) {
  const std::uint64_t version = segment.header().version.load(std::memory_order_relaxed);
  for (const PullBlock& block : blocks)
    copy_out(segment.data() + block.param, block.replica, block.bytes);
  return version;
}

}  // namespace asyncopt
