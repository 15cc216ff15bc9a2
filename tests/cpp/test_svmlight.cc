// The svmlight format: numbers are rounded as by strtod, pieces make no difference, and no file
// content causes a read outside it (AddressSanitizer checks that).
#include "asyncopt/io/svmlight/rows.h"

#include <bit>
#include <optional>
#include <stdexcept>

#include "support.h"

using namespace asyncopt;
using namespace asyncopt::svmlight;
using namespace asyncopt::test;

namespace {

struct Table {
  std::vector<std::int64_t> ends, queries;
  std::vector<std::int32_t> columns;
  std::vector<double> values, labels;

  bool operator==(const Table& other) const {
    const auto bits = [](const std::vector<double>& numbers) {
      std::vector<std::uint64_t> all;
      for (const double x : numbers)
        all.push_back(std::isnan(x) ? 1 : std::bit_cast<std::uint64_t>(x));
      return all;
    };
    return ends == other.ends && queries == other.queries && columns == other.columns &&
           bits(values) == bits(other.values) && bits(labels) == bits(other.labels);
  }
};

Table read(const std::string& text, std::size_t piece, std::size_t threads, bool queries = false,
           std::int32_t first = 0) {
  const std::vector<char> exact(text.begin(), text.end());  // of its size: nothing lies behind it
  const Source source = memory_source("f", {exact.data(), exact.size()}, 0);
  Rows<double> rows(source, {0, text.size(), queries, first, threads, piece});
  Table table;
  table.ends.resize(rows.rows());
  table.labels.resize(rows.rows());
  table.queries.resize(queries ? rows.rows() : 0);
  table.columns.resize(rows.entries());
  table.values.resize(rows.entries());
  rows.move_to({table.ends.data(), 0, table.columns.data(), 0, table.values.data(),
                table.labels.data(), queries ? table.queries.data() : nullptr},
               threads);
  return table;
}

void check_number(const std::string& text) {
  current_case = text;
  double value = 0;
  const std::string padded = text + "\n" + std::string(Lines::kPadding, '\0');
  const std::size_t length = parse_number({padded.data(), text.size() + 1}, value);
  const double expected = std::strtod(text.c_str(), nullptr);
  CHECK_EQ(length, std::isinf(expected) ? std::size_t{0} : text.size());
  if (length > 0)
    CHECK_EQ(std::bit_cast<std::uint64_t>(value), std::bit_cast<std::uint64_t>(expected));
}

void check_numbers() {
  for (const char* text : {"0",
                           "-0",
                           "+1",
                           "1.",
                           ".5",
                           "-.5e1",
                           "1e5",
                           "1E+5",
                           "9007199254740993",
                           "0.1",
                           "1e22",
                           "1e23",
                           "123456789012345678901234567890",
                           "0.00000000000000000000000000000123",
                           "4.9e-324",
                           "2e-324",
                           "1e-999",
                           "-1e-99999999999999999999",
                           "1e999",
                           "1e99999999999999999999",
                           "1.7976931348623157e308",
                           "1.7976931348623159e308",
                           "2.2250738585072011e-308",
                           "8.5e15",
                           "9007199254740992e-22",
                           "9007199254740993e-22"})
    check_number(text);
  check_number(std::string("0.").append(400, '0') + "1");
  check_number(std::string("1").append(400, '0'));
  check_number(std::string("1").append(400, '0') + "e-395");
  std::mt19937_64 random(1);
  for (int i = 0; i < count(300'000, 20'000); ++i) {
    std::string text = random() % 2 ? "-" : "";
    text += std::to_string(random() >> random() % 64);
    if (random() % 4 != 0) text.insert(text.size() - random() % text.size() * 3 / 4, 1, '.');
    if (text.front() == '.' && text.size() == 1) continue;
    if (random() % 3 == 0)
      text.append("e").append(std::to_string(static_cast<int>(random() % 700) - 350));
    check_number(text);
  }
  for (const char* text : {"", "-", "+", ".", "e5", "+-1", "++1", "nan(1)", "x"}) {
    current_case = text;
    double value;
    const std::string padded = std::string(text) + "\n" + std::string(Lines::kPadding, '\0');
    CHECK_EQ(parse_number({padded.data(), std::strlen(text) + 1}, value), std::size_t{0});
  }
  current_case.clear();
}

constexpr const char* kText =
    "+1 qid:7 0:1.5 3:-2e-1\t9:inf # comment 5:5\n"
    "\n"
    " \t# only a comment\r\n"
    "-1 qid:-8 # none\r\n"
    "0.5 qid:9 2147483647:1#glued\n"
    "2 qid:10 1:3";  // no newline at the end

void check_pieces() {
  const Table whole = read(kText, 1000, 1, true);
  CHECK((whole.ends == std::vector<std::int64_t>{3, 3, 4, 5}));
  CHECK((whole.labels == std::vector<double>{1, -1, 0.5, 2}));
  CHECK((whole.queries == std::vector<std::int64_t>{7, -8, 9, 10}));
  CHECK((whole.columns == std::vector<std::int32_t>{0, 3, 9, 2147483647, 1}));
  CHECK((whole.values == std::vector<double>{1.5, -0.2, INFINITY, 1, 3}));
  for (std::size_t piece = 1; piece < 140; ++piece)
    for (const std::size_t threads : {1u, 3u}) CHECK(read(kText, piece, threads, true) == whole);
  CHECK(read("", 10, 1).ends.empty());
  CHECK(read("\n\n#\n", 1, 2).ends.empty());
}

void check_faults() {
  const std::string good = "1 1:1\n\n";
  const std::pair<const char*, const char*> faults[] = {
      {"x 1:1", "f: line 3, column 1: expected a number as label, got 'x'"},
      {"1:1", "column 1: expected a number as label, got '1:1'"},
      {"1,2 1:1", "column 1: expected one label, got '1,2'; rows with several"},
      {"1 2", "column 3: expected index:value with a whole number of at least 0 as index, got '2'"},
      {"1 -2:1", "column 3: expected index:value with a whole number of at least 0"},
      {"1 a:1", "got 'a:1'"},
      {"1 2:", "column 5: expected a number after the colon, got nothing"},
      {"1 2: 3", "column 5: expected a number after the colon, got nothing"},
      {"1 2:1x", "column 5: expected a number after the colon, got '1x'"},
      {"1 2:1e999", "column 5: expected a number within the range of float64, got '1e999'"},
      {"1 2:1 2:1", "column 7: expected an index above 2, that before it, got '2:1'; sort"},
      {"1 2:1 1:1", "column 7: expected an index above 2"},
      {"1 2147483648:1", "column 3: expected an index of at most 2147483647"},
      {"1 99999999999999999999999:1", "column 3: expected an index of at most 2147483647"},
      {"1 qid:x 1:1", "column 7: expected a whole number of 64 bits after qid:, got 'x'"},
      {"1 2:\x01\xff", "got '\\x01\\xff'"},
      {"1 1:1 qid:1", "expected index:value"},
  };
  for (const auto& [line, words] : faults)
    for (const std::size_t piece : {1u, 5u, 1000u}) {
      current_case = std::string(line) + " in pieces of " + std::to_string(piece);
      CHECK_THROWS(std::invalid_argument, words, read(good + line + "\n5\n", piece, 2));
      CHECK_THROWS(std::invalid_argument, "line 3, ", read(good + line + "\nbad\n", piece, 2));
    }
  current_case.clear();
  CHECK_THROWS(std::invalid_argument, "expected qid:number after the label",
               read("1 1:1", 9, 1, true));
  CHECK_THROWS(std::invalid_argument, "column 3: expected an index of at least 1, as zero_based",
               read("1 0:1", 9, 1, false, 1));
  CHECK_EQ(read("1 1:1", 9, 1, false, 1).columns.size(), 1u);
  const std::string narrow = "1 1:1e39";
  CHECK_THROWS(std::invalid_argument, "expected a number within the range of float32, got '1e39'",
               (Rows<float>(memory_source("f", narrow, 0), {0, narrow.size(), false, 0, 1})));
}

// Either both fail with the same words, or both read the same.
void check_random_texts() {
  constexpr std::string_view alphabet = "0123456789::..  --++eEqid#\n\n\r\tnaf,x\x80";
  std::mt19937_64 random(2);
  int read_well = 0;
  for (int i = 0; i < count(60'000, 6'000); ++i) {
    std::string text = kText;
    if (random() % 2 == 0) text += "\n";
    for (std::uint64_t edits = random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const char c = alphabet[random() % alphabet.size()];
      if (random() % 3 == 0)
        text.erase(at, random() % 9);
      else if (random() % 2 == 0)
        text.insert(at, 1, c);
      else
        text[at] = c;
      if (text.empty()) text = "1";
    }
    current_case = text;
    const auto attempt = [&](std::size_t piece, std::size_t threads) {
      std::string message;
      std::optional<Table> table;
      try {
        table = read(text, piece, threads);
      } catch (const std::invalid_argument& error) {
        message = error.what();
      }
      return std::pair(message, table);
    };
    const auto whole = attempt(1 << 20, 1), cut = attempt(1 + random() % 60, 1 + i % 3);
    CHECK_EQ(whole.first, cut.first);
    CHECK(whole.second == cut.second);
    read_well += whole.second.has_value();
  }
  current_case.clear();
  CHECK_LE(1000, read_well);
}

void check_files() {
  char path[] = "/tmp/svmlight-XXXXXX";
  const int file = mkstemp(path);
  CHECK_LE(0, file);
  unlink(path);
  std::string text;
  for (int i = 0; i < 20'000; ++i)
    text += std::to_string(i) + " 1:0.5 " + std::to_string(2 + i) + ":2\n";
  CHECK_EQ(write(file, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  const Source source = file_source("f", file, text.size());
  const Rows<float> rows(source, {0, text.size(), false, 0, 2, 1000});
  CHECK_EQ(rows.rows(), 20'000u);
  CHECK_EQ(rows.entries(), 40'000u);
  CHECK_EQ(rows.lines(), 20'000u);
  CHECK_EQ(rows.lowest(), 1);
  CHECK_EQ(rows.highest(), 20'001);
  CHECK_EQ(ftruncate(file, 5000), 0);
  CHECK_THROWS(std::runtime_error, "became shorter while it was read",
               (Rows<float>(source, {0, text.size(), false, 0, 2, 1000})));
  close(file);
}

}  // namespace

int main() {
  alarm(250);
  check_numbers();
  check_pieces();
  check_faults();
  check_random_texts();
  check_files();
}
