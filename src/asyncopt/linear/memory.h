// The memory of one model, and what each worker sees of it.
#pragma once

#include <cstddef>
#include <vector>

namespace asyncopt::linear {

// An array of zeros that all workers share, and views of it in which the first bytes are the
// worker's own: two mappings of the same pages, the second with other pages in front. So one
// pointer reaches both kinds of memory, and loops need not ask which is which.
class Memory {
 public:
  // The bytes in as many pages as hold these.
  static std::size_t whole_pages(std::size_t bytes);

  // Bytes that a memory of these takes, all views included.
  static std::size_t bytes_needed(std::size_t bytes, std::size_t views, std::size_t own_bytes);

  // In each of the `views`, `own_bytes` are its own: whole pages, or all; if that is 0, all views
  // are the shared array itself. Throws std::system_error where there is no memory.
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
