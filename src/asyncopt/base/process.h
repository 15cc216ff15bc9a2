// Identity of processes, used in shared memory to name the owner of a lock or of a worker slot.
#pragma once

#include <cstdint>

namespace asyncopt {

// A process id with the process's start time (clock ticks since boot), which distinguishes a later
// process with the same id. 0: none. It fits in one atomic word: Linux process ids have at most 22
// bits, and 42 bits of ticks are 1,390 years.
class ProcessId {
 public:
  static constexpr unsigned kPidBits = 22;

  constexpr ProcessId() = default;
  constexpr ProcessId(std::uint32_t pid, std::uint64_t start) : bits_(start << kPidBits | pid) {}
  static constexpr ProcessId from_bits(std::uint64_t bits) {
    ProcessId id;
    id.bits_ = bits;
    return id;
  }
  // The calling process. Cached; recomputed in a forked child. Throws std::system_error without
  // /proc.
  static ProcessId mine();

  constexpr std::uint64_t bits() const { return bits_; }
  constexpr std::uint32_t pid() const {
    return static_cast<std::uint32_t>(bits_ & ((std::uint64_t{1} << kPidBits) - 1));
  }
  constexpr std::uint64_t start() const { return bits_ >> kPidBits; }
  constexpr bool operator==(const ProcessId&) const = default;

 private:
  std::uint64_t bits_ = 0;
};

// True if no thread of the process can write memory any more: the process does not exist, or each
// of its threads has released its memory on exit. A killed process may be gone before its parent
// has waited for it, but not before its last thread has left user mode: the kernel marks a dead
// thread's robust lock while sibling threads may still write. False for the caller's own process,
// and if it cannot be determined (no descriptor for /proc is free).
bool is_gone(ProcessId process);
// Waits until is_gone, at most `timeout_ns`; returns is_gone.
bool wait_until_gone(ProcessId process, std::uint64_t timeout_ns);

// Process id of a running thread; 0 if there is none, or if it cannot be determined.
std::uint32_t process_of_thread(std::uint32_t thread);

// The inode of this process's PID namespace. Lock owners are thread ids, which are valid only
// within one namespace. Throws std::system_error without /proc.
std::uint64_t pid_namespace();

}  // namespace asyncopt
