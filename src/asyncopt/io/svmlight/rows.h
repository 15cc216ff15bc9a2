// Rows of a text, read by several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "asyncopt/io/svmlight/parse.h"
#include "asyncopt/io/svmlight/source.h"

namespace asyncopt::svmlight {

struct Range {
  std::size_t begin, end;  // of the lines that begin there
  bool queries;            // keep them
  std::int32_t first;      // index of the first column, 0 or 1: lower ones are refused
  std::size_t threads;
  std::size_t piece = std::size_t{1} << 20;  // bytes for one thread at a time: a few milliseconds
};

// Where rows go, each array as long as there are rows or entries.
template <class Value>
struct CsrArrays {
  std::int64_t* ends;  // of each row, from `first` on
  std::int64_t first;
  std::int32_t* columns;
  std::int32_t base;  // taken from every index: 1 where the text counts from 1
  Value* values;
  double* labels;
  std::int64_t* queries;
};

template <class Value>
class Rows {
 public:
  // Throws what reading throws; std::invalid_argument with file, line and column where a line is
  // not of the format.
  Rows(const Source& source, const Range& range);
  Rows(Rows&&) = default;

  std::size_t rows() const { return rows_; }
  std::size_t entries() const { return entries_; }
  std::size_t lines() const { return lines_; }
  std::int32_t lowest() const { return lowest_; }    // index; INT32_MAX of no entries
  std::int32_t highest() const { return highest_; }  // index; -1 of no entries

  // Copies all to where it is wanted, and forgets it.
  void move_to(const CsrArrays<Value>& to, std::size_t threads);

 private:
  std::vector<Piece<Value>> pieces_;
  std::size_t rows_ = 0, entries_ = 0, lines_ = 0;
  std::int32_t lowest_ = INT32_MAX, highest_ = -1;
};

}  // namespace asyncopt::svmlight
