// Sources of text, and pieces of it cut at line ends.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace asyncopt::svmlight {

// Bytes that several threads read concurrently. The file is read, not mapped: if another program
// truncates a mapped file, access to the missing pages kills the process.
struct Source {
  std::string name;          // of the file, for messages
  std::size_t size;          // bytes
  std::size_t lines_before;  // of the file, for messages
  // Reads bytes [begin, begin + to.size()) into `to`. Throws std::system_error, or
  // std::runtime_error if the file was truncated.
  std::function<void(std::size_t begin, std::span<char> to)> read;
};

// The caller keeps ownership of the descriptor `file` and must keep it open during reads.
Source file_source(std::string name, int file, std::size_t size);
Source memory_source(std::string name, std::string_view text, std::size_t lines_before);

// Buffer of whole lines of a source, owned by one thread and reused for each piece.
class Lines {
 public:
  // Reads the lines that begin in [begin, end). A line begins at 0 and after every newline.
  void take(const Source& source, std::size_t begin, std::size_t end);

  // The lines. Each ends with a newline, also the last one of the source. kPadding readable bytes
  // follow.
  std::string_view text() const { return {buffer_.get() + first_, last_ - first_}; }
  // Offset of text() in the source, bytes.
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
