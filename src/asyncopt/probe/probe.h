// Measures the cost of sharing memory between two cores: two threads, each bound to its own
// processor, hand a word, a lock, or a block of cache lines to each other. All times are in
// seconds, means of the middle half of many.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace asyncopt {

using Processors = std::array<std::size_t, 2>;  // by the kernel's numbers

struct WordCosts {
  double transfer;   // a word that the other core wrote, until it is here
  double lock;       // taking and leaving a lock that is free and this core's
  double sleep;      // a system call that finds no need to sleep for a lock
  double wake;       // from the release of a lock until who slept for it is inside
  double wake_call;  // what that release takes of the releaser's time
};
// Throws std::invalid_argument for one processor named twice, std::system_error for one that the
// threads may not use.
WordCosts probe_words(const Processors& processors);

// Per cache line: this core wrote it last, or the other one did.
struct LineCost {
  double own, remote;
};
struct LineCosts {
  LineCost update;    // plain vectorized stores of SGD on float32
  LineCost exchange;  // the same by compare-exchange
  LineCost copy;      // to a second version that the same core wrote last
  LineCost snapshot;  // to private memory, in words that may be written meanwhile
  double check;       // of a gradient, whether it is finite
};
// What a push touches in a block of `lines` cache lines: `width` lines from each of its starts. The
// pushes are `starts` in parts of `spans`, and follow each other round and round.
struct Touches {
  std::size_t lines;
  std::size_t width;
  std::size_t spans;
  std::span<const std::int64_t> starts;
};
// Throws as probe_words, and std::invalid_argument for touches outside the block or none.
LineCosts probe_lines(const Processors& processors, const Touches& touches);

}  // namespace asyncopt
