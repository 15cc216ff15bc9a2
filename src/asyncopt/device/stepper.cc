#include "asyncopt/device/stepper.h"

#include <algorithm>
#include <utility>

namespace asyncopt::device {
namespace {

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % kVector == 0; }

Tensor tensor_of(const Block& block, std::size_t group, std::size_t ordinal) {
  const Kernel& kernel = *block.kernel;
  Tensor t{};
  t.param = reinterpret_cast<void*>(block.param);
  t.grad = const_cast<void*>(block.grad);  // a scaled gradient is written back unscaled
  bool aligned = is_aligned(t.param) && is_aligned(t.grad);
  for (std::size_t k = 0; k < kernel.slots.size(); ++k) {
    t.slots[k] = reinterpret_cast<void*>(block.slots[k]);
    aligned = aligned && is_aligned(t.slots[k]);
  }
  t.scalars = reinterpret_cast<double*>(block.scalars);
  t.n = block.n;
  t.group = static_cast<std::uint32_t>(group);
  t.ordinal = static_cast<std::uint32_t>(ordinal);
  t.aligned = aligned ? 1 : 0;
  return t;
}

std::size_t index_of(const Kernel* kernel) {
  return static_cast<std::size_t>(kernel - kernels().data());
}

}  // namespace

Stepper::Stepper(Backend& backend) : backend_(backend) {
  void *device = nullptr, *host = nullptr;
  check(backend_, backend_.allocate(sizeof(Clock), &device, &host));
  *static_cast<Clock*>(host) = {};
  const Status status = backend_.upload_now(device, host, sizeof(Clock));
  backend_.release(nullptr, host);
  clock_ = static_cast<Clock*>(device);
  if (status.code != 0) backend_.release(device, nullptr);
  check(backend_, status);
}

// Memory that a graph may still read is kept until the process ends.
Stepper::~Stepper() {
  bool is_captured = false;
  for (auto& [stream, lane] : lanes_) {
    for (Table& table : lane.ring) release(table);
    is_captured = is_captured || !lane.captured.empty();
  }
  if (!is_captured) backend_.release(clock_, nullptr);
}

void Stepper::step(const Step& step) {
  read(step.push.groups);
  if (tensors_.empty()) return;
  cut();
  bool capturing = false;
  check(backend_, backend_.is_capturing(step.stream, &capturing));
  Lane& lane = lanes_[step.stream];
  const Table& table = capturing ? captured_table(lane) : current_table(lane, step.stream);
  auto* const at = static_cast<std::byte*>(table.device);
  const auto part_of = [&](const Share& share) {
    return Part{reinterpret_cast<const Tensor*>(at + table.tensors_at()) + share.first_tensor,
                reinterpret_cast<TensorStep*>(at) + share.first_tensor,
                reinterpret_cast<const TensorChunk*>(at + table.chunks_at()) + share.first_chunk,
                clock_,
                static_cast<std::uint32_t>(share.tensors),
                static_cast<std::uint32_t>(share.chunks)};
  };
  if (is_check_pending_) forget_check();
  if (step.push.skip_nonfinite)
    for (const Share& share : shares_) {
      if (share.chunks == 0) continue;  // no elements
      is_check_pending_ = true;
      const CheckArgs args{part_of(share)};
      check(backend_,
            backend_.launch(Launch::check, share.kernel, &args, share.chunks, step.stream));
    }
  for (const Share& share : shares_) prepare(step, share, part_of(share));
  for (const Share& share : shares_) {
    const UpdateArgs args{part_of(share), &share == &shares_.back() ? 1u : 0u};
    // At least one block, even without elements: it ends the step.
    check(backend_, backend_.launch(step.atomic ? Launch::atomic : Launch::hogwild, share.kernel,
                                    &args, std::max(share.chunks, std::size_t{1}), step.stream));
  }
  is_check_pending_ = false;
  if (!capturing) ++steps_;
}

void Stepper::forget_check() {
  skipped();  // once the check has ended
  const decltype(Clock::bad) none = 0;
  check(backend_, backend_.upload_now(&clock_->bad, &none, sizeof none));
  is_check_pending_ = false;
}

std::uint64_t Stepper::skipped() {
  Clock now{};
  check(backend_, backend_.download(&now, clock_, sizeof now));
  return now.skipped;
}

// Collects all tensors with a gradient, grouped by kernel.
void Stepper::read(std::span<const Group> groups) {
  tensors_.clear();
  kernels_.clear();
  bool is_sorted = true;
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (const Block& block : groups[g].blocks) {
      if (block.grad == nullptr) continue;
      is_sorted = is_sorted && (kernels_.empty() || kernels_.back() <= block.kernel);
      tensors_.push_back(tensor_of(block, g, tensors_.size() + 1));
      kernels_.push_back(block.kernel);
    }
  if (is_sorted) return;
  std::vector<std::size_t> order(tensors_.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [this](std::size_t a, std::size_t b) { return kernels_[a] < kernels_[b]; });
  const auto sorted = [&order](const auto& from) {
    auto to = from;
    for (std::size_t i = 0; i < order.size(); ++i) to[i] = from[order[i]];
    return to;
  };
  tensors_ = sorted(tensors_);
  kernels_ = sorted(kernels_);
}

// Cuts the tensors into chunks and computes the shares of the kernels.
void Stepper::cut() {
  const auto is_same = [this](std::size_t i) {
    return cut_for_[i].first == kernels_[i] && cut_for_[i].second == tensors_[i].n;
  };
  bool is_current = cut_for_.size() == tensors_.size();
  for (std::size_t i = 0; is_current && i < tensors_.size(); ++i) is_current = is_same(i);
  if (is_current) return;
  ++chunking_;
  cut_for_.clear();
  shares_.clear();
  chunks_.clear();
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (i == 0 || kernels_[i] != kernels_[i - 1])
      shares_.push_back({index_of(kernels_[i]), i, 0, chunks_.size(), 0});
    Share& share = shares_.back();
    const auto place = static_cast<std::uint32_t>(share.tensors++);
    const std::size_t count = (tensors_[i].n + kBlockElements - 1) / kBlockElements;
    for (std::size_t c = 0; c < count; ++c)
      chunks_.push_back({place, static_cast<std::uint32_t>(c)});
    share.chunks += count;
    cut_for_.emplace_back(kernels_[i], tensors_[i].n);
  }
}

// The table of this step's tensors. Its upload, if any, is in stream order.
Stepper::Table& Stepper::current_table(Lane& lane, Stream stream) {
  Table& before = *lane.current;
  if (holds(before)) return before;
  before.left = ++lane.turns;
  if (before.device != nullptr) check(backend_, backend_.mark(stream, &before.last_use));
  // Gradients may alternate between a few sets of addresses.
  for (Table& table : lane.ring)
    if (holds(table)) return *(lane.current = &table);
  Table& table = *std::min_element(lane.ring.begin(), lane.ring.end(),
                                   [](auto& a, auto& b) { return a.left < b.left; });
  if (table.last_use != nullptr) check(backend_, backend_.wait(table.last_use));
  reserve(table);
  const std::size_t bytes = write(table);
  const std::size_t at = table.tensors_at();
  check(backend_, backend_.upload(static_cast<std::byte*>(table.device) + at,
                                  static_cast<std::byte*>(table.host) + at, bytes, stream));
  table.chunking = chunking_;
  lane.current = &table;
  return table;
}

// The table of a captured step. Replays of the graph read it, so it is never written again.
Stepper::Table& Stepper::captured_table(Lane& lane) {
  for (Table& table : lane.captured)
    if (holds(table)) return table;
  Table& table = lane.captured.emplace_back();
  reserve(table);
  const std::size_t bytes = write(table);
  const std::size_t at = table.tensors_at();
  check(backend_, backend_.upload_now(static_cast<std::byte*>(table.device) + at,
                                      static_cast<std::byte*>(table.host) + at, bytes));
  table.chunking = chunking_;
  return table;
}

bool Stepper::holds(const Table& table) const {
  return table.chunking == chunking_ && table.tensors == tensors_.size() &&
         std::memcmp(static_cast<std::byte*>(table.host) + table.tensors_at(), tensors_.data(),
                     tensors_.size() * sizeof(Tensor)) == 0;
}

void Stepper::reserve(Table& table) {
  const Table wanted{.tensors = tensors_.size(), .chunks = chunks_.size()};
  if (wanted.bytes() > table.capacity) {
    const std::size_t capacity = 2 * wanted.bytes();
    release(table);
    check(backend_, backend_.allocate(capacity, &table.device, &table.host));
    table.capacity = capacity;
  }
  if (table.tensors != wanted.tensors || table.chunks != wanted.chunks) table.chunking = 0;
  table.tensors = wanted.tensors;
  table.chunks = wanted.chunks;
}

std::size_t Stepper::write(Table& table) {
  auto* const at = static_cast<std::byte*>(table.host);
  std::memcpy(at + table.tensors_at(), tensors_.data(), tensors_.size() * sizeof(Tensor));
  if (std::exchange(table.chunking, 0) == chunking_) return tensors_.size() * sizeof(Tensor);
  if (!chunks_.empty())
    std::memcpy(at + table.chunks_at(), chunks_.data(), chunks_.size() * sizeof(TensorChunk));
  return table.bytes() - table.tensors_at();
}

void Stepper::release(Table& table) {
  if (table.last_use != nullptr) backend_.release_event(table.last_use);
  if (table.device != nullptr) backend_.release(table.device, table.host);
  table = {};
}

// Launches `prepare` for the tensors of one kernel, at most kMaxGroups groups per launch.
void Stepper::prepare(const Step& step, const Share& share, const Part& part) {
  const Tensor* const tensors = tensors_.data() + share.first_tensor;
  PrepareArgs args{};
  args.part = part;
  args.seed = step.push.seed - steps_;  // Clock::pushes adds these back, and the replays of graphs
  args.grad_scale = step.grad_scale;
  args.found_inf = step.found_inf;
  for (std::size_t begin = 0, end = 0; begin < share.tensors; begin = end) {
    const std::size_t first = tensors[begin].group;
    while (end < share.tensors && tensors[end].group - first < kMaxGroups) ++end;
    args.begin = static_cast<std::uint32_t>(begin);
    args.end = static_cast<std::uint32_t>(end);
    args.first_group = static_cast<std::uint32_t>(first);
    for (std::size_t g = first; g <= tensors[end - 1].group; ++g) {
      std::memcpy(args.hyper[g - first], step.push.groups[g].hyper, sizeof args.hyper[0]);
      args.rates[g - first] = step.rates.empty() ? Rate{} : step.rates[g];
    }
    check(backend_,
          backend_.launch(Launch::prepare, share.kernel, &args, end - begin, step.stream));
  }
}

}  // namespace asyncopt::device
