// The memory of a linear model, and each worker's view of it.
#pragma once

#include <cstddef>
#include <vector>

namespace asyncopt::linear {

// A zeroed array that all workers share, and views of it whose first bytes are private to a worker:
// each view maps private pages in front of the shared ones. Loops address both kinds of memory by
// one pointer, without a branch.
class Memory {
 public:
  // `bytes` rounded up to whole pages.
  static std::size_t whole_pages(std::size_t bytes);

  // Memory that these take, all views included; bytes.
  static std::size_t bytes_needed(std::size_t bytes, std::size_t views, std::size_t own_bytes);

  // `own_bytes`: private bytes of each view, a multiple of the page size or all; with 0, every view
  // is the shared array itself. Throws std::system_error if the memory cannot be had.
  Memory(std::size_t bytes, std::size_t views, std::size_t own_bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* shared() const { return shared_; }
  std::byte* view(std::size_t i) const { return views_.empty() ? shared_ : views_[i]; }

 private:
  std::byte* map(int file);
  void unmap();

  std::size_t bytes_;
  std::byte* shared_ = nullptr;
  std::vector<std::byte*> views_;
};

}  // namespace asyncopt::linear
