// The shared-memory segment: header, ledger, locks and data in one mapping of fixed size. Processes
// may map it at different addresses, so it holds offsets, not pointers.
//
//   Header | WorkerSlot x workers | RobustMutex x stripes | data x copies
//
// `data` is one whole version of the model: parameters, then state slots, then per-tensor scalars.
// The caller defines its inner layout; blocks name byte offsets into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "asyncopt/base/robust_mutex.h"
#include "asyncopt/store/ledger.h"

namespace asyncopt {

// Thrown for memory that holds no segment, or one that is damaged, or of another build or PID
// namespace.
struct SegmentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr std::uint64_t kMagic = 0x74706f636e797361;  // "asyncopt"
inline constexpr std::uint32_t kSegmentVersion = 3;
// leashed keeps two copies per worker and two more, and names a copy by 16 bits.
inline constexpr std::size_t kMaxWorkers = 32000;
// The kernel releases at most 2048 robust locks of a dead thread. A push holds the locks of one
// stripe or row at a time; even a holder of all stripes stays below that limit.
inline constexpr std::size_t kMaxStripes = 1024;

struct SegmentConfig {
  std::string sync;
  std::uint64_t workers = 0;
  std::uint64_t data_bytes = 0;   // size of one copy
  std::uint64_t param_bytes = 0;  // size of its leading part, the parameters
  std::uint64_t lock_timeout_ns = 0;
  std::uint64_t layout_hash = 0;  // hash of the caller's inner layout
};

struct Header {
  std::atomic<std::uint64_t> magic;  // written last: a segment without it was never finished
  std::uint32_t version_of_format;
  std::uint32_t sync;
  char sync_name[16];
  std::uint64_t total_bytes;
  std::uint64_t layout_hash;
  std::uint64_t pid_namespace;  // inode; lock owners are thread ids, valid only in one namespace
  std::uint64_t workers;
  std::uint64_t copies;
  std::uint64_t stripes;
  std::uint64_t stripe_bytes;
  std::uint64_t data_bytes;
  std::uint64_t param_bytes;
  std::uint64_t lock_timeout_ns;
  std::uint64_t checksum;  // of the fields above, from version_of_format on

  alignas(kCacheLine) std::atomic<std::uint64_t> version;   // pushes applied; not used by leashed
  alignas(kCacheLine) std::atomic<std::uint64_t> sequence;  // seqlock: odd while a push is written
  std::atomic<std::uint64_t>
      intent;  // seqlock: 1 + the version that copy 1 holds; 0: copy 0 is whole
  alignas(kCacheLine) std::atomic<std::uint64_t> latest;  // leashed: version << 16 | copy
  alignas(
      kCacheLine) std::atomic<std::uint32_t> turn;  // leashed: 1 + worker that may not be overtaken
  RobustMutex mutex;
};
static_assert(sizeof(Header) <= kPage && sizeof(Header) % kCacheLine == 0);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free &&
              std::atomic<std::uint64_t>::is_always_lock_free);

// A view of a mapped segment. Copying it copies the view.
class Segment {
 public:
  static std::uint64_t bytes_needed(const SegmentConfig& config);
  // Initializes zeroed memory of bytes_needed(config) bytes, page-aligned.
  static Segment create(void* memory, std::uint64_t bytes, const SegmentConfig& config);
  // Checks that the memory holds a segment that this build and process can use.
  static Segment attach(void* memory, std::uint64_t bytes);

  Header& header() const { return *reinterpret_cast<Header*>(memory_); }
  WorkerSlot& worker(std::size_t i) const { return workers_[i]; }
  RobustMutex& stripe(std::size_t i) const { return stripes_[i]; }
  std::byte* data(std::size_t copy = 0) const { return data_ + copy * data_stride_; }
  std::uint64_t data_offset() const { return static_cast<std::uint64_t>(data_ - memory_); }
  std::uint64_t timeout_ns() const { return header().lock_timeout_ns; }
  std::uint64_t version() const;  // pushes applied

  // Claims a worker slot that is free, or whose process is gone (even if a later process has the
  // same id), and returns its index.
  std::size_t claim_worker() const;
  void release_worker(std::size_t i) const;
  // Throws SegmentError if slot `i` is not this process's: two processes must not share a slot.
  void check_worker(std::size_t i) const;

  // Records that the worker computes its next gradient from the current version (a pull, for
  // workers that compute in place), or from `version`.
  void pull_mark(std::size_t worker) const { pull_mark(worker, version()); }
  void pull_mark(std::size_t worker, std::uint64_t version) const;
  // For a store whose first copy was filled from a checkpoint: makes that copy the newest version,
  // after `version` pushes. No other worker may use the store meanwhile.
  void restore_version(std::uint64_t version) const;

 private:
  explicit Segment(void* memory);

  std::byte* memory_;
  WorkerSlot* workers_;
  RobustMutex* stripes_;
  std::byte* data_;
  std::uint64_t data_stride_;
};

}  // namespace asyncopt
