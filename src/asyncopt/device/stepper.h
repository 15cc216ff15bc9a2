// The steps of one optimizer whose tensors lie on a device: all of them in one update launch for
// each kernel, after a small one that counts steps and computes coefficients there, so that a graph
// can capture both.
//
// The launches read the tensors' addresses from tables on the device. A step compares its
// tensors with the table of the step before, and writes another one only where an address has
// changed; the allocator of torch mostly gives gradients the addresses that they had. Tables of
// captured steps are written once and stay.
#pragma once

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <span>
#include <vector>

#include "asyncopt/device/backend.h"
#include "asyncopt/push/push.h"

namespace asyncopt::device {

// A step's request beyond the push itself. Of the push, `threads`, `audit` and `catch_up` mean
// nothing here, and no block has rows or a journal.
struct Step {
  Push push;
  Stream stream = nullptr;
  bool atomic = false;
  std::span<const Rate> rates{};      // one for each group, or none
  const float* grad_scale = nullptr;  // on the device; gradients are divided by it
  const float* found_inf = nullptr;   // on the device; not 0: no step
};

class Stepper {
 public:
  // Throws DeviceError, as all of it.
  explicit Stepper(Backend& backend);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  void step(const Step& step);
  // Steps that left all as it was because of a gradient that was infinite or NaN. Waits for the
  // device.
  std::uint64_t skipped();

 private:
  // A table, in memory of the device and of the host, and the records of its tensors.
  struct Table {
    void* device = nullptr;
    void* host = nullptr;
    std::size_t capacity = 0;  // bytes
    std::size_t tensors = 0, chunks = 0;
    std::uint64_t chunking = 0;  // that its chunks are of; 0: its contents are not to be used
    std::uint64_t left = 0;      // the lane's turn in which it was left for another; 0: never used
    void* last_use = nullptr;    // event: the stream is done with it

    std::size_t tensors_at() const { return tensors * sizeof(TensorStep); }
    std::size_t chunks_at() const { return tensors_at() + tensors * sizeof(Tensor); }
    std::size_t bytes() const { return chunks_at() + chunks * sizeof(TensorChunk); }
  };
  // Each stream has tables of its own: they must not change before it has used them.
  struct Lane {
    std::array<Table, 4> ring;
    Table* current = &ring[0];
    std::uint64_t turns = 0;
    std::deque<Table> captured;
  };
  // The tensors and chunks of one kernel, in all tables.
  struct Share {
    std::size_t kernel;
    std::size_t first_tensor, tensors, first_chunk, chunks;
  };

  void read(std::span<const Group> groups);
  void cut();
  Table& current_table(Lane& lane, Stream stream);
  Table& captured_table(Lane& lane);
  bool holds(const Table& table) const;
  void reserve(Table& table);
  // Writes what differs; returns the bytes of it from the tensors on.
  std::size_t write(Table& table);
  void release(Table& table);
  void prepare(const Step& step, const Share& share, const Part& part);
  // Clears what the check of a step has found that then failed. Waits for the device.
  void forget_check();

  Backend& backend_;
  Clock* clock_ = nullptr;
  std::map<Stream, Lane> lanes_;
  std::uint32_t steps_ = 0;        // launched, not captured
  bool is_check_pending_ = false;  // launched, and nothing yet that clears what it finds

  // Of this step; kept, as they mostly stay the same.
  std::vector<Tensor> tensors_;
  std::vector<const Kernel*> kernels_;  // of each tensor
  std::vector<Share> shares_;
  std::vector<TensorChunk> chunks_;
  std::uint64_t chunking_ = 0;  // counts the changes of kernels, sizes and of who has a gradient
  std::vector<std::pair<const Kernel*, std::size_t>> cut_for_;
};

}  // namespace asyncopt::device
