#include "asyncopt/linear/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace asyncopt::linear {
namespace {

[[noreturn]] void fail(std::size_t bytes, int error = errno) {
  throw std::system_error(error, std::generic_category(),
                          "shared memory: cannot allocate " + std::to_string(bytes) + " bytes");
}

}  // namespace

std::size_t Memory::whole_pages(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::max((bytes + page - 1) / page, std::size_t{1}) * page;
}

std::size_t Memory::bytes_needed(std::size_t bytes, std::size_t views, std::size_t own_bytes) {
  const std::size_t shared = whole_pages(bytes);
  return shared + (own_bytes == 0 ? 0 : views * std::min(whole_pages(own_bytes), shared));
}

Memory::Memory(std::size_t bytes, std::size_t views, std::size_t own_bytes)
    : bytes_(whole_pages(bytes)) {
  const int file = memfd_create("asyncopt-linear", MFD_CLOEXEC);
  if (file < 0) fail(bytes_);
  try {
    // For its owner alone, and of pages that are there: where memory has run out, the first write
    // to others would be a SIGBUS.
    if (fchmod(file, 0600) != 0) fail(bytes_);
    if (const int error = posix_fallocate(file, 0, static_cast<off_t>(bytes_))) fail(bytes_, error);
    shared_ = map(file);
    if (own_bytes != 0) {
      views_.reserve(views);
      const std::size_t own = std::min(whole_pages(own_bytes), bytes_);
      for (std::size_t i = 0; i < views; ++i) {
        views_.push_back(map(file));
        if (mmap(views_.back(), own, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
          fail(bytes_);
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
  if (at == MAP_FAILED) fail(bytes_);
  return static_cast<std::byte*>(at);
}

void Memory::unmap() {
  if (shared_ != nullptr) munmap(shared_, bytes_);
  for (std::byte* const view : views_) munmap(view, bytes_);
}

}  // namespace asyncopt::linear
