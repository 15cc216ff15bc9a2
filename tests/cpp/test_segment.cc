// The segment: its layout, memory that attach refuses, and the worker slots.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <string>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::test;

// The layout that other processes and other builds rely on: a change needs a new
// kSegmentVersion.
static_assert(kSegmentVersion == 3);
static_assert(sizeof(RobustMutex) == 64 && alignof(RobustMutex) == 64);
static_assert(sizeof(WorkerSlot) == 1472 && alignof(WorkerSlot) == 64);
static_assert(sizeof(Header) == 448 && alignof(Header) == 64);
static_assert(offsetof(Header, magic) == 0 && offsetof(Header, version_of_format) == 8);
static_assert(offsetof(Header, sync) == 12 && offsetof(Header, sync_name) == 16);
static_assert(offsetof(Header, total_bytes) == 32 && offsetof(Header, layout_hash) == 40);
static_assert(offsetof(Header, pid_namespace) == 48 && offsetof(Header, workers) == 56);
static_assert(offsetof(Header, copies) == 64 && offsetof(Header, stripes) == 72);
static_assert(offsetof(Header, stripe_bytes) == 80 && offsetof(Header, data_bytes) == 88);
static_assert(offsetof(Header, param_bytes) == 96 && offsetof(Header, lock_timeout_ns) == 104);
static_assert(offsetof(Header, checksum) == 112);
// Words that different workers write are on cache lines of their own.
static_assert(offsetof(Header, version) == 128 && offsetof(Header, sequence) == 192);
static_assert(offsetof(Header, intent) == 200);
static_assert(offsetof(Header, latest) == 256 && offsetof(Header, turn) == 320);
static_assert(offsetof(Header, mutex) == 384);

namespace {

SegmentConfig config_of(const char* sync, std::uint64_t workers, std::uint64_t bytes) {
  return {.sync = sync,
          .workers = workers,
          .data_bytes = bytes,
          .param_bytes = bytes / 2,
          .lock_timeout_ns = 1'000'000'000,
          .layout_hash = 0xABCDEF};
}

void check_parts_do_not_overlap() {
  for_each_sync([](const SyncInfo& sync) {
    for (const std::uint64_t workers : {1u, 2u, 7u, 64u})
      for (const std::uint64_t bytes : {0u, 2u, 64u, 4096u, 5000u, 1000000u}) {
        const SegmentConfig config = config_of(sync.name, workers, bytes);
        const Mapping memory(Segment::bytes_needed(config));
        const Segment s = Segment::create(memory.data(), memory.size(), config);
        const Header& h = s.header();
        CHECK_EQ(h.workers, workers);
        CHECK_EQ(h.copies, sync.copies(workers));
        CHECK_EQ(h.total_bytes, memory.size());
        auto* const begin = static_cast<std::byte*>(memory.data());
        auto* const slots = reinterpret_cast<std::byte*>(&s.worker(0));
        auto* const stripes = reinterpret_cast<std::byte*>(&s.stripe(0));
        CHECK(slots >= begin + sizeof(Header));
        CHECK(stripes >= slots + workers * sizeof(WorkerSlot));
        CHECK(s.data() >= stripes + h.stripes * sizeof(RobustMutex));
        CHECK_EQ(s.data(), begin + s.data_offset());
        CHECK_EQ(s.data_offset() % kPage, 0u);
        for (std::uint64_t c = 0; c < h.copies; ++c) {
          CHECK(s.data(c) + bytes <= begin + memory.size());
          if (c > 0) CHECK(s.data(c) >= s.data(c - 1) + bytes);
        }
        CHECK_LE(h.stripes, kMaxStripes);
        if (sync.striped) {
          // Every parameter has its stripe; a stripe is whole cache lines.
          CHECK_LE(config.param_bytes, h.stripes * h.stripe_bytes);
          CHECK_EQ(h.stripe_bytes % kCacheLine, 0u);
        }
        for (std::uint64_t w = 0; w < workers; ++w)
          CHECK_EQ(s.worker(w).owner.load() + s.worker(w).pushes.load_relaxed(), 0u);

        const Segment again = Segment::attach(memory.data(), memory.size());
        CHECK_EQ(again.data(h.copies - 1), s.data(h.copies - 1));
        CHECK_EQ(&again.worker(workers - 1), &s.worker(workers - 1));
        CHECK_EQ(&again.stripe(0), &s.stripe(0));
      }
  });
}

void check_create_refuses() {
  const SegmentConfig good = config_of("mutex", 2, 1000);
  const std::uint64_t bytes = Segment::bytes_needed(good);
  const Mapping memory(bytes + kPage);
  CHECK_THROWS(SegmentError, "page-aligned bytes",
               Segment::create(memory.data(), bytes + kPage, good));
  CHECK_THROWS(SegmentError, "page-aligned bytes", Segment::create(memory.data(), bytes - 1, good));
  CHECK_THROWS(SegmentError, "page-aligned",
               Segment::create(static_cast<std::byte*>(memory.data()) + 64, bytes, good));
  for (const std::uint64_t workers : {0u, 0x10000u}) {
    SegmentConfig bad = good;
    bad.workers = workers;
    CHECK_THROWS(SegmentError, "workers: expected 1 to 32000",
                 Segment::create(memory.data(), Segment::bytes_needed(bad), bad));
  }
  SegmentConfig bad = good;
  bad.sync = "telepathy";
  CHECK_THROWS(SegmentError, "sync: expected one of hogwild", Segment::bytes_needed(bad));
  CHECK_THROWS(SegmentError, "got 'telepathy'", Segment::create(memory.data(), bytes, bad));
  // None of them has left memory that attach accepts.
  CHECK_THROWS(SegmentError, "no asyncopt segment", Segment::attach(memory.data(), bytes));
}

void check_attach_refuses() {
  const Mapping memory(Segment::bytes_needed(config_of("striped", 3, 10000)));
  auto* const bytes = static_cast<unsigned char*>(memory.data());
  const auto attach = [&] { return Segment::attach(memory.data(), memory.size()); };
  CHECK_THROWS(SegmentError, "no asyncopt segment", attach());
  std::memset(bytes, 0xFF, kPage);
  CHECK_THROWS(SegmentError, "no asyncopt segment", attach());
  std::memset(bytes, 0, kPage);
  Segment::create(memory.data(), memory.size(), config_of("striped", 3, 10000));
  attach();

  CHECK_THROWS(SegmentError, "no asyncopt segment", Segment::attach(memory.data(), 0));
  CHECK_THROWS(SegmentError, "no asyncopt segment", Segment::attach(memory.data(), kPage - 1));
  for (const std::size_t size : {kPage, memory.size() - 1, memory.size() + 1, 2 * memory.size()})
    CHECK_THROWS(SegmentError, "damaged", Segment::attach(memory.data(), size));

  // Each bit of the part that never changes, the PID namespace among it.
  for (std::size_t i = 0; i < offsetof(Header, checksum) + sizeof(Header::checksum); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      current_case = "byte " + std::to_string(i);
      const bool is_magic = i < offsetof(Header, version_of_format);
      const bool is_version = !is_magic && i < offsetof(Header, sync);
      bytes[i] ^= static_cast<unsigned char>(1 << bit);
      CHECK_THROWS(SegmentError,
                   is_magic     ? "no asyncopt segment"
                   : is_version ? "expected segment format 3, got"
                                : "damaged",
                   attach());
      bytes[i] ^= static_cast<unsigned char>(1 << bit);
    }
  current_case.clear();
  attach();

  // The part that changes may hold anything.
  Header& h = attach().header();
  h.version.store(12345);
  h.sequence.store(7);
  CHECK_EQ(attach().header().version.load(), 12345u);
}

// A valid header of another machine or build, which the checksum cannot detect.
void check_attach_refuses_strangers() {
  const Mapping memory(Segment::bytes_needed(config_of("hogwild", 1, 64)));
  Header& h = Segment::create(memory.data(), memory.size(), config_of("hogwild", 1, 64)).header();
  const auto seal = [&h] {  // FNV-1a, as the segment's
    const auto* const begin = reinterpret_cast<const unsigned char*>(&h.version_of_format);
    const auto* const end = reinterpret_cast<const unsigned char*>(&h.checksum);
    h.checksum = 0xCBF29CE484222325u;
    for (const unsigned char* p = begin; p != end; ++p)
      h.checksum = (h.checksum ^ *p) * 0x100000001B3u;
  };
  const auto attach = [&] { return Segment::attach(memory.data(), memory.size()); };
  seal();
  attach();

  h.pid_namespace += 1;
  seal();
  CHECK_THROWS(SegmentError, "another PID namespace", attach());
  h.pid_namespace -= 1;

  h.sync = static_cast<std::uint32_t>(sync_count());
  seal();
  CHECK_THROWS(SegmentError, "a build whose syncs differ", attach());
  h.sync = 1;  // a name that is not that of the index
  seal();
  CHECK_THROWS(SegmentError, "a build whose syncs differ", attach());
  h.sync = 0;
  seal();
  attach();
}

void check_worker_slots() {
  const Store store("hogwild", 4, {{&kernel_of("sgd", "float32"), 1}});
  const Segment& s = store.segment;
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK_EQ(s.claim_worker(), i);
    CHECK_EQ(s.worker(i).owner.load(), ProcessId::mine().bits());
  }
  CHECK_THROWS(SegmentError, "workers: all 4 worker slots", s.claim_worker());
  s.release_worker(2);
  CHECK_EQ(s.claim_worker(), 2u);

  // A live process keeps its slot; a dead one's is taken over, with what it had reserved.
  s.release_worker(1);
  const pid_t child = fork_child([&s] {
    CHECK_EQ(s.claim_worker(), 1u);
    s.worker(1).reading.store(3);
    s.worker(1).building.store(4);
    s.worker(1).pushes.add(5);
    raise(SIGSTOP);
    raise(SIGKILL);
  });
  CHECK(WIFSTOPPED(wait_for(child, 10, WUNTRACED)));
  CHECK_EQ(ProcessId::from_bits(s.worker(1).owner.load()).pid(), static_cast<std::uint32_t>(child));
  CHECK_THROWS(SegmentError, "workers: all 4 worker slots", s.claim_worker());
  kill(child, SIGCONT);
  CHECK(WIFSIGNALED(wait_for(child, 10)));
  CHECK_EQ(s.claim_worker(), 1u);
  CHECK_EQ(s.worker(1).reading.load() + s.worker(1).building.load(), 0u);
  CHECK_EQ(s.worker(1).pushes.load_relaxed(), 5u);  // the ledger keeps them

  // A late worker's staleness does not count earlier pushes.
  s.header().version.store(77);
  s.release_worker(3);
  CHECK_EQ(s.claim_worker(), 3u);
  CHECK_EQ(s.worker(3).pulled.load(), 77u);
}

// A store that is filled from a checkpoint goes on at its version, and nobody is stale by that.
void check_versions() {
  for_each_sync([](const SyncInfo& sync) {
    const Kernel& kernel = kernel_of("sgd", "float64");
    const Store store(sync.name, 2, {{&kernel, 3}});
    const Segment& s = store.segment;
    const std::vector<double> ones(3, 1.0);
    std::vector<double> replica(3);
    Block block = store.blocks[0];
    block.grad = ones.data();
    Group group = group_of(kernel, {{"lr", 1}, {"maximize", 1}});
    group.blocks = {&block, 1};
    const Push request{.groups = {&group, 1}};
    const PullBlock all{block.param, replica.data(), 3 * sizeof(double)};
    push(s, 0, request);
    CHECK_EQ(s.version(), 1u);

    const std::uint64_t restored = std::uint64_t{1} << 40;
    std::fill_n(reinterpret_cast<double*>(s.data() + block.param), 3, 1.0);
    s.restore_version(restored);
    CHECK_EQ(s.version(), restored);
    CHECK_EQ(pull(s, 1, {&all, 1}), restored);
    CHECK_EQ(replica[2], 1.0);  // the first copy, wherever the newest was
    for (std::uint64_t i = 1; i <= 3; ++i) CHECK_EQ(push(s, 0, request).version, restored + i);
    CHECK_EQ(s.version(), restored + 3);
    CHECK_EQ(store.param<double>()[1], 4.0);

    // A worker that computes from what is there now is not stale; one that does not is.
    CHECK_EQ(push(s, 1, request).staleness, 3u);
    s.pull_mark(0);
    CHECK_EQ(push(s, 0, request).staleness, 0u);
  });
}

// Threads that claim and release: no slot has two owners.
void check_claims_at_once() {
  constexpr std::size_t kSlots = 8;  // and half as many threads: one is always free
  const Store store("hogwild", kSlots, {{&kernel_of("sgd", "float32"), 1}});
  std::atomic<bool> taken[kSlots] = {};
  run_threads(kSlots / 2, [&](std::size_t) {
    for (int i = 0; i < count(1'000'000, 5'000); ++i) {
      const std::size_t slot = store.segment.claim_worker();
      CHECK(!taken[slot].exchange(true));
      taken[slot].store(false);
      store.segment.release_worker(slot);
    }
  });
}

void check_staleness_buckets() {
  for (std::size_t b = 0; b < kStalenessBuckets; ++b) {
    const std::uint64_t floor = staleness_bucket_floor(b);
    CHECK_EQ(staleness_bucket(floor), b);
    if (b > 0) CHECK_EQ(staleness_bucket(floor - 1), b - 1);
    // A bucket is at most a quarter of its values wide.
    if (b >= kStalenessExact && b + 1 < kStalenessBuckets)
      CHECK_LE(4 * (staleness_bucket_floor(b + 1) - floor), floor);
  }
  CHECK_EQ(staleness_bucket(~std::uint64_t{0}), kStalenessBuckets - 1);
  CHECK_EQ(staleness_bucket_floor(kStalenessBuckets - 1), std::uint64_t{7} << 29);
}

}  // namespace

int main() {
  set_deadline();
  check_parts_do_not_overlap();
  check_create_refuses();
  check_attach_refuses();
  check_attach_refuses_strangers();
  check_worker_slots();
  check_versions();
  check_claims_at_once();
  check_staleness_buckets();
}
