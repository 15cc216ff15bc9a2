// A board in memory of its own, which forked children share.
#pragma once

#include <cstring>

#include "asyncopt/base/wait.h"
#include "asyncopt/board/board.h"
#include "support.h"

namespace asyncopt::test {

struct TestBoard {
  const Mapping memory;
  const Board board;

  explicit TestBoard(std::size_t workers)
      : memory(Board::bytes_needed(workers)),
        board(Board::create(memory.data(), memory.size(), workers)) {}
  // Another board in the same state.
  TestBoard(const TestBoard& other) : TestBoard(other->workers()) {
    std::memcpy(memory.data(), other.memory.data(), memory.size());
  }
  TestBoard& operator=(const TestBoard&) = delete;
  const Board* operator->() const { return &board; }

  // As new, in the same place.
  void reset() const {
    const std::size_t workers = board.workers();
    std::memset(memory.data(), 0, memory.size());
    Board::create(memory.data(), memory.size(), workers);
  }

  // As in Python: -1 instead of nothing.
  std::int64_t take(std::size_t rank, std::uint64_t round, std::uint64_t total) const {
    return index(board.take(rank, round, total));
  }
  std::int64_t take_static(std::size_t rank, std::uint64_t round, std::uint64_t total,
                           std::uint64_t stride) const {
    return index(board.take_static(rank, round, total, stride));
  }

 private:
  static std::int64_t index(std::optional<std::uint32_t> batch) {
    return batch ? static_cast<std::int64_t>(*batch) : -1;
  }
};

}  // namespace asyncopt::test
