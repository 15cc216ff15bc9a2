#include "asyncopt/store/segment.h"

#include <cstring>
#include <new>

#include "asyncopt/store/sync_info.h"

namespace asyncopt {
namespace {

std::uint64_t round_up(std::uint64_t n, std::uint64_t to) { return (n + to - 1) / to * to; }

// FNV-1a over the header's constant fields, to detect a damaged header.
std::uint64_t checksum(const Header& h) {
  const auto* const begin = reinterpret_cast<const unsigned char*>(&h.version_of_format);
  const auto* const end = reinterpret_cast<const unsigned char*>(&h.checksum);
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const unsigned char* p = begin; p != end; ++p) hash = (hash ^ *p) * 0x100000001B3u;
  return hash;
}

struct Shape {
  std::uint64_t copies, stripes, stripe_bytes, total;
};

Shape shape_of(const SegmentConfig& config) {
  const SyncInfo& sync = sync_info(sync_index(config.sync));
  Shape s{};
  s.copies = sync.copies(config.workers);
  // A stripe covers whole cache lines. There are as many as possible, so that few pushes collide.
  s.stripe_bytes = kCacheLine;
  while (config.param_bytes > s.stripe_bytes * kMaxStripes) s.stripe_bytes *= 2;
  s.stripes = sync.striped ? (config.param_bytes + s.stripe_bytes - 1) / s.stripe_bytes : 0;
  s.total = kPage +
            round_up(config.workers * sizeof(WorkerSlot) + s.stripes * sizeof(RobustMutex), kPage) +
            s.copies * round_up(config.data_bytes, kPage);
  return s;
}

}  // namespace

std::uint64_t Segment::bytes_needed(const SegmentConfig& config) { return shape_of(config).total; }

Segment::Segment(void* memory) : memory_(static_cast<std::byte*>(memory)) {
  const Header& h = header();
  workers_ = reinterpret_cast<WorkerSlot*>(memory_ + kPage);
  stripes_ = reinterpret_cast<RobustMutex*>(workers_ + h.workers);
  const std::uint64_t tables = h.workers * sizeof(WorkerSlot) + h.stripes * sizeof(RobustMutex);
  data_ = memory_ + kPage + round_up(tables, kPage);
  data_stride_ = round_up(h.data_bytes, kPage);
}

Segment Segment::create(void* memory, std::uint64_t bytes, const SegmentConfig& config) {
  const Shape shape = shape_of(config);
  if (config.workers == 0 || config.workers > kMaxWorkers ||
      config.sync.size() >= sizeof(Header::sync_name))
    throw SegmentError("workers: expected 1 to " + std::to_string(kMaxWorkers) + ", got " +
                       std::to_string(config.workers));
  if (bytes != shape.total || reinterpret_cast<std::uintptr_t>(memory) % kPage != 0)
    throw SegmentError("store: expected " + std::to_string(shape.total) +
                       " page-aligned bytes, got " + std::to_string(bytes));
  auto* const h = new (memory) Header{};
  h->version_of_format = kSegmentVersion;
  h->sync = static_cast<std::uint32_t>(sync_index(config.sync));
  std::memcpy(h->sync_name, config.sync.c_str(), config.sync.size());
  h->total_bytes = bytes;
  h->layout_hash = config.layout_hash;
  h->pid_namespace = pid_namespace();
  h->workers = config.workers;
  h->copies = shape.copies;
  h->stripes = shape.stripes;
  h->stripe_bytes = shape.stripe_bytes;
  h->data_bytes = config.data_bytes;
  h->param_bytes = config.param_bytes;
  h->lock_timeout_ns = config.lock_timeout_ns;
  h->checksum = checksum(*h);
  h->mutex.create();
  const Segment segment(memory);
  for (std::size_t i = 0; i < config.workers; ++i) new (&segment.worker(i)) WorkerSlot;
  for (std::size_t i = 0; i < shape.stripes; ++i) segment.stripe(i).create();
  h->magic.store(kMagic, std::memory_order_release);  // pairs with the acquire in attach
  return segment;
}

Segment Segment::attach(void* memory, std::uint64_t bytes) {
  const auto* const h = static_cast<const Header*>(memory);
  if (bytes < kPage || h->magic.load(std::memory_order_acquire) != kMagic)
    throw SegmentError("store: this memory is no asyncopt segment, or one that was never finished");
  if (h->version_of_format != kSegmentVersion)
    throw SegmentError("store: expected segment format " + std::to_string(kSegmentVersion) +
                       ", got " + std::to_string(h->version_of_format) +
                       "; use one build of asyncopt in all processes");
  if (h->checksum != checksum(*h) || h->total_bytes != bytes)
    throw SegmentError("store: the segment's header is damaged");
  if (h->sync >= sync_count() || std::strcmp(sync_info(h->sync).name, h->sync_name) != 0)
    throw SegmentError(
        "store: the segment was made by a build whose syncs differ; use one build of asyncopt in "
        "all processes");
  if (h->pid_namespace != pid_namespace())
    throw SegmentError(
        "store: expected a segment of this PID namespace, got one of another PID namespace (a "
        "container?), whose lock owners cannot be identified; start all workers in one");
  return Segment(memory);
}

std::size_t Segment::claim_worker() const {
  const std::uint64_t me = ProcessId::mine().bits();
  for (std::size_t i = 0; i < header().workers; ++i) {
    std::uint64_t owner = worker(i).owner.load(std::memory_order_relaxed);
    if (owner != 0 && !is_gone(ProcessId::from_bits(owner))) continue;
    if (!worker(i).owner.compare_exchange_strong(owner, me, std::memory_order_acq_rel)) continue;
    worker(i).reading.store(0, std::memory_order_release);
    worker(i).building.store(0, std::memory_order_release);
    // The worker starts from the current version.
    pull_mark(i);
    return i;
  }
  throw SegmentError(
      "workers: all " + std::to_string(header().workers) +
      " worker slots of the store are taken; call share_memory with a larger workers=");
}

void Segment::release_worker(std::size_t i) const {
  // A forked child may hold a copy of its parent's claim, which it must not release. The release
  // order pairs with the exchange in claim_worker.
  std::uint64_t me = ProcessId::mine().bits();
  worker(i).owner.compare_exchange_strong(me, 0, std::memory_order_release);
}

void Segment::check_worker(std::size_t i) const {
  if (worker(i).owner.load(std::memory_order_relaxed) != ProcessId::mine().bits())
    throw SegmentError(
        "store: expected the process that took worker slot " + std::to_string(i) +
        ", got a fork of it (or the slot was given back); start workers by spawn, as "
        "asyncopt.launch and torch.multiprocessing.spawn do");
}

std::uint64_t Segment::version() const {
  const Header& h = header();
  return sync_info(h.sync).publishes ? h.latest.load(std::memory_order_relaxed) >> 16
                                     : h.version.load(std::memory_order_relaxed);
}

void Segment::pull_mark(std::size_t worker, std::uint64_t version) const {
  this->worker(worker).pulled.store(version, std::memory_order_relaxed);
}

void Segment::restore_version(std::uint64_t version) const {
  Header& h = header();
  if (sync_info(h.sync).publishes)
    h.latest.store(version << 16, std::memory_order_release);  // pairs with leashed's acquire
  else
    h.version.store(version, std::memory_order_relaxed);
  for (std::size_t i = 0; i < h.workers; ++i) pull_mark(i);
}

}  // namespace asyncopt
