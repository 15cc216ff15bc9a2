// Steps of one optimizer whose tensors are on a device. Per kernel, a small launch counts the step
// and computes coefficients on the device, and one launch updates all tensors. A graph can capture
// both.
//
// The launches read the tensors' addresses from tables on the device. A step compares its tensors
// with the table of the previous step and writes another table only if an address has changed;
// torch's allocator mostly reuses the addresses of gradients. Tables of captured steps are written
// once and never changed.
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

// Arguments of a step. The push's `threads`, `audit` and `catch_up` are ignored, and no block has
// rows or a journal.
struct Step {
  Push push;
  Stream stream = nullptr;
  bool atomic = false;
  std::span<const Rate> rates{};      // one per group, or empty
  const float* grad_scale = nullptr;  // on the device; gradients are divided by it
  const float* found_inf = nullptr;   // on the device; no step if it is not 0
};

class Stepper {
 public:
  // Throws DeviceError, like all functions of this class.
  explicit Stepper(Backend& backend);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  void step(const Step& step);
  // Number of steps skipped because a gradient was infinite or NaN. Waits for the device.
  std::uint64_t skipped();

 private:
  // A table of tensors and chunks, in device and host memory, with the records of the tensors.
  struct Table {
    void* device = nullptr;
    void* host = nullptr;
    std::size_t capacity = 0;  // bytes
    std::size_t tensors = 0, chunks = 0;
    std::uint64_t chunking = 0;  // value of chunking_ for its chunks; 0: contents are invalid
    std::uint64_t left = 0;      // the lane's turn in which another replaced it; 0: never used
    void* last_use = nullptr;    // event after the stream's last use

    std::size_t tensors_at() const { return tensors * sizeof(TensorStep); }
    std::size_t chunks_at() const { return tensors_at() + tensors * sizeof(Tensor); }
    std::size_t bytes() const { return chunks_at() + chunks * sizeof(TensorChunk); }
  };
  // The tables of one stream, which must not change before the stream has used them.
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
  // Writes the changed part of the host's table. Returns its size from the tensors on, in bytes.
  std::size_t write(Table& table);
  void release(Table& table);
  void prepare(const Step& step, const Share& share, const Part& part);
  // Clears the result of the check of a step that failed afterwards. Waits for the device.
  void forget_check();

  Backend& backend_;
  Clock* clock_ = nullptr;
  std::map<Stream, Lane> lanes_;
  std::uint32_t steps_ = 0;        // launched, not captured
  bool is_check_pending_ = false;  // launched, without the update that clears its result

  // Data of this step; kept, as they rarely change between steps.
  std::vector<Tensor> tensors_;
  std::vector<const Kernel*> kernels_;  // kernel of each tensor
  std::vector<Share> shares_;
  std::vector<TensorChunk> chunks_;
  std::uint64_t chunking_ = 0;  // counts changes of kernels, sizes and tensors with gradients
  std::vector<std::pair<const Kernel*, std::size_t>> cut_for_;
};

}  // namespace asyncopt::device
