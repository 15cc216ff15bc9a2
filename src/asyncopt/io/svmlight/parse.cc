#include "asyncopt/io/svmlight/parse.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "asyncopt/io/svmlight/source.h"

namespace asyncopt::svmlight {
namespace {

static_assert(std::endian::native == std::endian::little, "eight_digits reads them in this order");

constexpr std::size_t kShown = 40;  // characters of bad input quoted in a message

bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }
bool ends_token(char c) { return is_space(c) || c == '\n' || c == '#'; }

// Eight characters at once (Lemire, "Quickly parsing eight digits", 2018).
bool are_eight_digits(std::uint64_t c) {
  return ((c & 0xF0F0F0F0F0F0F0F0) | (((c + 0x0606060606060606) & 0xF0F0F0F0F0F0F0F0) >> 4)) ==
         0x3333333333333333;
}
std::uint64_t eight_digits(std::uint64_t c) {
  c = (c & 0x0F0F0F0F0F0F0F0F) * 2561 >> 8;
  c = (c & 0x00FF00FF00FF00FF) * 6553601 >> 16;
  return (c & 0x0000FFFF0000FFFF) * 42949672960001 >> 32;
}

// Appends digits to `number`, which wraps around beyond 19 of them. Returns the end of the digits.
const char* digits(const char* p, std::uint64_t& number) {
  for (;;) {
    std::uint64_t eight;
    std::memcpy(&eight, p, sizeof eight);
    if (!are_eight_digits(eight)) break;
    number = number * 100000000 + eight_digits(eight);
    p += 8;
  }
  for (; is_digit(*p); ++p) number = number * 10 + static_cast<std::uint64_t>(*p - '0');
  return p;
}

constexpr long kHugePower = 1L << 40;  // more than there are digits in any text
constexpr long kExactPower = 22;       // 10^22 is a float64, 10^23 is not
constexpr std::array<double, kExactPower + 1> kPowers{
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// Adds the exponent that follows an 'e' to `power`, capped near kHugePower. Returns its end,
// nullptr if there is none.
const char* power_of_ten(const char* p, long& power) {
  const bool negative = *p == '-';
  p += *p == '-' || *p == '+';
  if (!is_digit(*p)) return nullptr;
  long size = 0;
  for (; is_digit(*p); ++p) size = size < kHugePower ? 10 * size + (*p - '0') : size;
  power += negative ? -size : size;
  return p;
}

// Decimal exponent of a nonzero number: the p with 10^(p-1) <= |number| < 10^p.
long magnitude(const char* p, const char* end) {
  long power = 0;
  bool significant = false, fraction = false;
  for (; p != end && *p != 'e' && *p != 'E'; ++p) {
    fraction = fraction || *p == '.';
    significant = significant || (is_digit(*p) && *p != '0');
    if (is_digit(*p) && significant != fraction) power += significant ? 1 : -1;
  }
  if (p != end) power_of_ten(p + 1, power);
  return power;
}

// Parses any number, at a quarter of the speed of `number`. `last` is the end of the text.
const char* slow_number(const char* p, const char* last, double& value) {
  if (*p == '+' && p[1] != '-') ++p;
  const auto [end, error] = std::from_chars(p, last, value);
  if (error == std::errc::invalid_argument || end[-1] == ')') return nullptr;  // as in nan(1)
  if (error == std::errc::result_out_of_range) {
    if (magnitude(p, end) > 0) return nullptr;
    value = *p == '-' ? -0.0 : 0.0;
  }
  return end;
}

// Returns the end of the number, nullptr if there is none.
const char* number(const char* p, const char* last, double& value) {
  const char* s = p + (*p == '-' || *p == '+');
  std::uint64_t mantissa = 0;
  const char* const first = s;
  s = digits(s, mantissa);
  auto count = s - first;
  long exponent = 0;
  if (*s == '.') {
    const char* const point = ++s;
    s = digits(s, mantissa);
    exponent = point - s;
    count -= exponent;
  }
  if (count == 0) return slow_number(p, last, value);
  if (*s == 'e' || *s == 'E')
    if (const char* const e = power_of_ten(s + 1, exponent); e != nullptr) s = e;
  // Both factors are exact, so their product or quotient is rounded once (Clinger, PLDI 1990).
  if (count > 19 || mantissa > std::uint64_t{1} << 53 || exponent < -kExactPower ||
      exponent > kExactPower)
    return slow_number(p, last, value);
  const auto whole = static_cast<double>(mantissa);
  const double size = exponent < 0 ? whole / kPowers[static_cast<std::size_t>(-exponent)]
                                   : whole * kPowers[static_cast<std::size_t>(exponent)];
  value = *p == '-' ? -size : size;
  return s;
}

// The text at `p`, for a message.
std::string shown(const char* p) {
  std::string text = "'";
  for (; !ends_token(*p); ++p) {
    if (text.size() > kShown) {
      text += "...";
      break;
    }
    if (*p >= ' ' && *p <= '~') {
      text += *p;
    } else {
      char code[8];
      std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(*p));
      text += code;
    }
  }
  return text == "'" ? "nothing" : text + "'";
}

template <class Value>
constexpr const char* kRange = "a number within the range of float32";
template <>
constexpr const char* kRange<double> = "a number within the range of float64";

// Parses a text up to its end or its first fault.
template <class Value>
class Reader {
 public:
  Reader(std::string_view text, bool queries, std::int32_t first)
      : begin_(text.data()), last_(text.data() + text.size()), p_(begin_), first_(first) {
    piece_.lines = count(text, '\n');
    const std::size_t most = count(text, ':');
    piece_.ends = std::make_unique_for_overwrite<std::int64_t[]>(piece_.lines);
    piece_.labels = std::make_unique_for_overwrite<double[]>(piece_.lines);
    piece_.columns = std::make_unique_for_overwrite<std::int32_t[]>(most);
    piece_.values = std::make_unique_for_overwrite<Value[]>(most);
    if (queries) piece_.queries = std::make_unique_for_overwrite<std::int64_t[]>(piece_.lines);
  }

  Piece<Value> read() {
    while (p_ != last_ && line()) {
    }
    return std::move(piece_);
  }

 private:
  bool expected(const char* at, const std::string& what) {
    piece_.fault = Fault{static_cast<std::size_t>(at - begin_), "expected " + what};
    return false;
  }
  bool expected(const char* at, const char* what, const char* found, const char* remedy = "") {
    return expected(at, std::string(what) + ", got " + shown(found) + remedy);
  }

  void skip_spaces() {
    while (is_space(*p_)) ++p_;
  }
  bool at_end() const { return *p_ == '\n' || *p_ == '#'; }

  bool line() {
    skip_spaces();
    if (!at_end()) {
      if (!label() || !query() || !entries()) return false;
      piece_.ends[piece_.rows++] = static_cast<std::int64_t>(piece_.entries);
    }
    p_ = static_cast<const char*>(std::memchr(p_, '\n', static_cast<std::size_t>(last_ - p_))) + 1;
    return true;
  }

  bool label() {
    const char* const end = number(p_, last_, piece_.labels[piece_.rows]);
    if (end != nullptr && *end == ',')
      return expected(p_, "one label", p_,
                      "; rows with several are read by scikit-learn's "
                      "load_svmlight_file(..., multilabel=True)");
    if (end == nullptr || !ends_token(*end)) return expected(p_, "a number as label", p_);
    p_ = end;
    skip_spaces();
    return true;
  }

  bool query() {
    if (std::memcmp(p_, "qid:", 4) != 0)
      return !piece_.queries || expected(p_, "qid:number after the label, as query_id=True", p_);
    const char* s = p_ + 4;
    std::int64_t value;
    const auto [end, error] = std::from_chars(s, last_, value);
    if (error != std::errc() || !ends_token(*end))
      return expected(s, "a whole number of 64 bits after qid:", s);
    if (piece_.queries) piece_.queries[piece_.rows] = value;
    p_ = end;
    skip_spaces();
    return true;
  }

  bool entries() {
    std::int64_t previous = first_ - 1;
    const std::size_t first = piece_.entries;
    std::size_t i = first;
    for (; !at_end(); ++i) {
      const char* s = p_;
      std::int64_t index = 0;
      for (; is_digit(*s) && index <= INT32_MAX; ++s) index = 10 * index + (*s - '0');
      if (s == p_ || *s != ':' || index <= previous || index > INT32_MAX)
        return bad_index(s, index, previous);
      double value;
      const char* const end = number(++s, last_, value);
      if (end == nullptr || !ends_token(*end)) return bad_value(s, end);
      piece_.columns[i] = static_cast<std::int32_t>(index);
      piece_.values[i] = static_cast<Value>(value);
      if constexpr (sizeof(Value) < sizeof(double))
        if (std::isinf(piece_.values[i]) && std::isfinite(value)) return bad_value(s, nullptr);
      previous = index;
      p_ = end;
      skip_spaces();
    }
    if (i > first) {
      piece_.lowest = std::min(piece_.lowest, piece_.columns[first]);
      piece_.highest = std::max(piece_.highest, piece_.columns[i - 1]);
      piece_.entries = i;
    }
    return true;
  }

  bool bad_index(const char* s, std::int64_t index, std::int64_t previous) {
    if (s == p_ || (!is_digit(*s) && *s != ':'))
      return expected(p_, "index:value with a whole number of at least 0 as index", p_);
    if (index > INT32_MAX) return expected(p_, "an index of at most 2147483647", p_);
    if (previous < first_) return expected(p_, "an index of at least 1, as zero_based=False", p_);
    const std::string above = "an index above " + std::to_string(previous) + ", that before it";
    return expected(p_, above.c_str(), p_, "; sort the entries of a row, and name each once");
  }

  bool bad_value(const char* s, const char* end) {
    const char* first = s + (*s == '-' || *s == '+');
    first += *first == '.';
    const bool too_large = end == nullptr && is_digit(*first);
    return expected(s, too_large ? kRange<Value> : "a number after the colon", s);
  }

  const char *begin_, *last_, *p_;
  std::int32_t first_;
  Piece<Value> piece_;
};

}  // namespace

std::size_t parse_number(std::string_view text, double& value) {
  const char* const end = number(text.data(), text.data() + text.size(), value);
  return end == nullptr ? 0 : static_cast<std::size_t>(end - text.data());
}

template <class Value>
Piece<Value> parse(std::string_view text, bool queries, std::int32_t first) {
  return Reader<Value>(text, queries, first).read();
}
template Piece<float> parse(std::string_view, bool, std::int32_t);
template Piece<double> parse(std::string_view, bool, std::int32_t);

}  // namespace asyncopt::svmlight
