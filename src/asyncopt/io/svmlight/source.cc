#include "asyncopt/io/svmlight/source.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <unistd.h>

namespace asyncopt::svmlight {
namespace {

constexpr std::size_t kStep = std::size_t{1} << 16;  // bytes per read to complete the last line

}  // namespace

Source file_source(std::string name, int file, std::size_t size) {
  const auto read = [file](std::size_t begin, std::span<char> to) {
    while (!to.empty()) {
      const ssize_t got = pread(file, to.data(), to.size(), static_cast<off_t>(begin));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw std::system_error(errno, std::generic_category());
      if (got == 0) throw std::runtime_error("became shorter while it was read");
      begin += static_cast<std::size_t>(got);
      to = to.subspan(static_cast<std::size_t>(got));
    }
  };
  return {std::move(name), size, 0, read};
}

Source memory_source(std::string name, std::string_view text, std::size_t lines_before) {
  const auto read = [text](std::size_t begin, std::span<char> to) {
    std::memcpy(to.data(), text.data() + begin, to.size());
  };
  return {std::move(name), text.size(), lines_before, read};
}

void Lines::reserve(std::size_t bytes) {
  if (bytes + kPadding <= capacity_) return;
  const std::size_t larger = std::max(bytes + kPadding, 2 * capacity_);
  auto memory = std::make_unique_for_overwrite<char[]>(larger);
  if (buffer_) std::memcpy(memory.get(), buffer_.get(), last_);
  buffer_ = std::move(memory);
  capacity_ = larger;
}

void Lines::take(const Source& source, std::size_t begin, std::size_t end) {
  end = std::min(end, source.size);
  first_ = last_ = 0;
  offset_ = begin;
  if (begin >= end) return;
  const std::size_t from = begin == 0 ? 0 : begin - 1;  // may be the newline of the line before
  reserve(end - from);
  last_ = end - from;
  source.read(from, {buffer_.get(), last_});
  if (begin > 0) {
    const void* before = std::memchr(buffer_.get(), '\n', last_ - 1);
    first_ = before == nullptr
                 ? last_
                 : static_cast<std::size_t>(static_cast<const char*>(before) - buffer_.get()) + 1;
  }
  offset_ = from + first_;
  if (first_ == last_) return;
  // Extend the last line to its newline.
  std::size_t searched = last_ - 1;
  for (;;) {
    const void* newline = std::memchr(buffer_.get() + searched, '\n', last_ - searched);
    if (newline != nullptr) {
      last_ = static_cast<std::size_t>(static_cast<const char*>(newline) - buffer_.get()) + 1;
      break;
    }
    searched = last_;
    const std::size_t more = std::min(kStep, source.size - (from + last_));
    reserve(last_ + std::max<std::size_t>(more, 1));
    if (more == 0) {
      buffer_[last_++] = '\n';
      break;
    }
    source.read(from + last_, {buffer_.get() + last_, more});
    last_ += more;
  }
  std::memset(buffer_.get() + last_, 0, kPadding);
}

std::size_t count(std::string_view text, char what) {
  std::size_t total = 0;
  while (!text.empty()) {  // counts of at most 255 fit in a byte, so the compiler vectorizes this
    const std::string_view part = text.substr(0, 255);
    std::uint8_t found = 0;
    for (const char c : part) found = static_cast<std::uint8_t>(found + (c == what ? 1 : 0));
    total += found;
    text.remove_prefix(part.size());
  }
  return total;
}

}  // namespace asyncopt::svmlight
