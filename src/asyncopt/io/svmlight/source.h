// Where text comes from, and pieces of it that end with a line.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace asyncopt::svmlight {

// Bytes that several threads read at once. Not a mapping of the file: where another program cuts a
// file short, touching the pages that went would end the process.
struct Source {
  std::string name;          // of the file, for messages
  std::size_t size;          // bytes
  std::size_t lines_before;  // of the file, for messages
  // Puts bytes [begin, begin + to.size()) into `to`. Throws std::system_error, or
  // std::runtime_error where the file is shorter than it was.
  std::function<void(std::size_t begin, std::span<char> to)> read;
};

// `file` stays the caller's and must be open while it is read.
Source file_source(std::string name, int file, std::size_t size);
Source memory_source(std::string name, std::string_view text, std::size_t lines_before);

// Lines of a source in memory of one thread, used again for the next ones.
class Lines {
 public:
  // Takes the lines that begin in [begin, end); one begins at 0 and after every newline.
  void take(const Source& source, std::size_t begin, std::size_t end);

  // Each ends with a newline, the last one of the source as well; kPadding bytes follow that may be
  // read.
  std::string_view text() const { return {buffer_.get() + first_, last_ - first_}; }
  // Of the text in the source.
  std::size_t offset() const { return offset_; }

  static constexpr std::size_t kPadding = 8;

 private:
  void reserve(std::size_t bytes);

  std::unique_ptr<char[]> buffer_;
  std::size_t capacity_ = 0, first_ = 0, last_ = 0, offset_ = 0;
};

// Number of occurrences of a character.
std::size_t count(std::string_view text, char what);

}  // namespace asyncopt::svmlight
