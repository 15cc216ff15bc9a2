// Parser of the svmlight / libsvm format, one row per line:
//
//   label [qid:number] index:value index:value ... [# comment]
//
// The rules are those of scikit-learn's load_svmlight_file: indices rise; blank lines are skipped;
// separators are space, tab, carriage return, form feed and vertical tab.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace asyncopt::svmlight {

struct Fault {
  std::size_t at;    // offset in the text, bytes
  std::string what;  // "expected X, got Y; remedy"
};

// Rows of a piece of text. Arrays may be larger than the number of rows or entries.
template <class Value>
struct Piece {
  std::size_t rows = 0, entries = 0, lines = 0;
  std::int32_t lowest = INT32_MAX, highest = -1;  // index as written
  std::unique_ptr<std::int64_t[]> ends;           // end of each row in `columns` and `values`
  std::unique_ptr<std::int32_t[]> columns;        // index as written
  std::unique_ptr<Value[]> values;                // nearest float64, converted to Value
  std::unique_ptr<double[]> labels;
  std::unique_ptr<std::int64_t[]> queries;  // null unless requested
  std::optional<Fault> fault;               // the first; the piece holds the rows before it
};

// Parses `text`, which must come from class Lines: it ends with a newline and is padded.
// Indices below `first` (0 or 1) are faults.
template <class Value>
Piece<Value> parse(std::string_view text, bool queries, std::int32_t first);

// Parses the decimal number at the start of `text` (padded) to the nearest float64, like Python's
// float() but without underscores. Returns the number of characters; 0 if there is no number or it
// overflows.
std::size_t parse_number(std::string_view text, double& value);

}  // namespace asyncopt::svmlight
