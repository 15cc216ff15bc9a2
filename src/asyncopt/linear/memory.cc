#include "asyncopt/linear/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace asyncopt::linear {
namespace {

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::size_t whole_pages(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::max((bytes + page - 1) / page, std::size_t{1}) * page;
}

}  // namespace

Memory::Memory(std::size_t bytes, std::size_t views, std::size_t own_bytes)
    : bytes_(whole_pages(bytes)) {
  const int file = memfd_create("asyncopt-linear", MFD_CLOEXEC);
  if (file < 0) fail("memfd_create");
  try {
    if (ftruncate(file, static_cast<off_t>(bytes_)) != 0) fail("ftruncate");
    shared_ = map(file);
    if (own_bytes != 0) {
      views_.reserve(views);
      const std::size_t own = std::min(whole_pages(own_bytes), bytes_);
      for (std::size_t i = 0; i < views; ++i) {
        views_.push_back(map(file));
        if (mmap(views_.back(), own, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
          fail("mmap");
      }
    }
  } catch (...) {
    close(file);
    unmap();
    throw;
  }
  close(file);
}

Memory::~Memory() { unmap(); }

std::byte* Memory::map(int file) {
  void* const at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) fail("mmap");
  return static_cast<std::byte*>(at);
}

void Memory::unmap() {
  if (shared_ != nullptr) munmap(shared_, bytes_);
  for (std::byte* const view : views_) munmap(view, bytes_);
}

}  // namespace asyncopt::linear
