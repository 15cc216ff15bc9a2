// Measurement of the cost of sharing memory between two cores. Two threads, each bound to its own
// processor, pass a word, a lock, or a block of cache lines to each other. All times are in
// seconds, means of the middle half of many samples.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace asyncopt {

using Processors = std::array<std::size_t, 2>;  // the kernel's processor numbers

struct WordCosts {
  double transfer;   // from the other core's write of a word until this core reads it
  double lock;       // lock and unlock of a free lock that this core used last
  double sleep;      // a futex wait that returns at once
  double wake;       // from the release of a lock until its sleeping waiter holds it
  double wake_call;  // time of that release for the releasing thread
};
// Throws std::invalid_argument if both processors are the same, std::system_error if a thread may
// not use one.
WordCosts probe_words(const Processors& processors);

// Cost per cache line, last written by this core or by the other one.
struct LineCost {
  double own, remote;
};
struct LineCosts {
  LineCost update;    // plain vectorized stores of SGD on float32
  LineCost exchange;  // the same by compare-exchange
  LineCost copy;      // copy to a second version that the same core wrote last
  LineCost snapshot;  // copy to private memory, in atomic words (copy_out)
  double check;       // test that a gradient is finite
};
// Lines that a push accesses in a block of `lines` cache lines: `width` lines from each of its
// `spans` starts. Push i uses the i-th group of `spans` starts, cyclically.
struct Touches {
  std::size_t lines;
  std::size_t width;
  std::size_t spans;
  std::span<const std::int64_t> starts;
};
// Throws like probe_words, and std::invalid_argument if `touches` is empty or outside the block.
LineCosts probe_lines(const Processors& processors, const Touches& touches);

}  // namespace asyncopt
