// Rows of an svmlight text, parsed by several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "asyncopt/io/svmlight/parse.h"
#include "asyncopt/io/svmlight/source.h"

namespace asyncopt::svmlight {

struct Range {
  std::size_t begin, end;  // the lines that begin in these bytes
  bool queries;            // keep the query ids
  std::int32_t first;      // index of the first column, 0 or 1; lower ones are rejected
  std::size_t threads;
  std::size_t piece = std::size_t{1} << 20;  // bytes per task of a thread: a few milliseconds
};

// Destination of the rows. The arrays have one element per row or per entry.
template <class Value>
struct CsrArrays {
  std::int64_t* ends;  // end of each row's entries, counted from `first`
  std::int64_t first;
  std::int32_t* columns;
  std::int32_t base;  // subtracted from every index: 1 if the text counts from 1
  Value* values;
  double* labels;
  std::int64_t* queries;
};

template <class Value>
class Rows {
 public:
  // Throws what reading throws; std::invalid_argument with file, line and column if a line does not
  // follow the format.
  Rows(const Source& source, const Range& range);
  Rows(Rows&&) = default;

  std::size_t rows() const { return rows_; }
  std::size_t entries() const { return entries_; }
  std::size_t lines() const { return lines_; }
  std::int32_t lowest() const { return lowest_; }    // index; INT32_MAX without entries
  std::int32_t highest() const { return highest_; }  // index; -1 without entries

  // Moves all rows to the arrays `to` and frees them here.
  void move_to(const CsrArrays<Value>& to, std::size_t threads);

 private:
  std::vector<Piece<Value>> pieces_;
  std::size_t rows_ = 0, entries_ = 0, lines_ = 0;
  std::int32_t lowest_ = INT32_MAX, highest_ = -1;
};

}  // namespace asyncopt::svmlight
