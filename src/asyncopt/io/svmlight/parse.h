// The svmlight / libsvm format, a line for each row:
//
//   label [qid:number] index:value index:value ... [# comment]
//
// as scikit-learn's load_svmlight_file reads it: indices rise, blank lines are skipped, any of
// blank, tab, carriage return, form feed and vertical tab separates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace asyncopt::svmlight {

struct Fault {
  std::size_t at;    // in the text
  std::string what;  // "expected X, got Y; remedy"
};

// Rows of a piece of text. Arrays hold as many as there are rows or entries, and may be larger.
template <class Value>
struct Piece {
  std::size_t rows = 0, entries = 0, lines = 0;
  std::int32_t lowest = INT32_MAX, highest = -1;  // index as written
  std::unique_ptr<std::int64_t[]> ends;           // of each row in `columns` and `values`
  std::unique_ptr<std::int32_t[]> columns;        // index as written
  std::unique_ptr<Value[]> values;                // the float64 next to the text, as Value
  std::unique_ptr<double[]> labels;
  std::unique_ptr<std::int64_t[]> queries;  // if asked for
  std::optional<Fault> fault;               // the first; rows are those before it
};

// `text` is of class Lines: it ends with a newline, and is padded.
// Indices are at least `first`, 0 or 1.
template <class Value>
Piece<Value> parse(std::string_view text, bool queries, std::int32_t first);

// The float64 next to a decimal number at the begin of `text`, as Python's float() reads it, but
// for underscores; `text` is padded. Returns the number of characters, 0 where there is none or it
// is not finite though none of "inf" and "nan" is written.
std::size_t parse_number(std::string_view text, double& value);

}  // namespace asyncopt::svmlight
