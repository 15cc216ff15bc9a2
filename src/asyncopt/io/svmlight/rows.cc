#include "asyncopt/io/svmlight/rows.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <utility>

#include "asyncopt/base/parallel.h"

namespace asyncopt::svmlight {
namespace {

// Calls work(i, state) for each i < count on threads that take the next i when they are free.
// Rethrows an exception of a thread. `make` creates each thread's `state`.
template <class Make, class Work>
void dispense(std::size_t count, std::size_t threads, const Make& make, const Work& work) {
  std::atomic<std::size_t> next{0};
  parallel_for(std::min(threads, count), threads, [&](std::size_t) {
    try {
      auto own = make();
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i, own);
    } catch (...) {
      next.store(count, std::memory_order_relaxed);
      throw;
    }
  });
}

// Throws std::invalid_argument with file, line and column. `at`: offset of the fault in the source.
[[noreturn]] void refuse(const Source& source, std::size_t at, const std::string& what) {
  constexpr std::size_t step = std::size_t{1} << 20;
  std::string text;
  std::size_t lines = source.lines_before, line = 0;
  for (std::size_t begin = 0; begin < at; begin += text.size()) {
    text.resize(std::min(step, at - begin));
    source.read(begin, text);
    lines += count(text, '\n');
    if (const auto newline = text.rfind('\n'); newline != text.npos) line = begin + newline + 1;
  }
  throw std::invalid_argument(source.name + ": line " + std::to_string(lines + 1) + ", column " +
                              std::to_string(at - line + 1) + ": " + what);
}

}  // namespace

template <class Value>
Rows<Value>::Rows(const Source& source, const Range& range) {
  const std::size_t end = std::min(range.end, source.size);
  const std::size_t bytes = end - std::min(range.begin, end);
  pieces_.resize((bytes + range.piece - 1) / range.piece);
  std::vector<std::size_t> offsets(pieces_.size());
  std::atomic<std::size_t> faulty{pieces_.size()};  // first faulty piece; later ones are skipped
  dispense(
      pieces_.size(), range.threads, [] { return Lines(); },
      [&](std::size_t i, Lines& lines) {
        if (i > faulty.load(std::memory_order_relaxed)) return;
        const std::size_t begin = range.begin + i * range.piece;
        lines.take(source, begin, std::min(begin + range.piece, end));
        offsets[i] = lines.offset();
        pieces_[i] = parse<Value>(lines.text(), range.queries, range.first);
        if (!pieces_[i].fault) return;
        std::size_t before = faulty.load(std::memory_order_relaxed);
        while (i < before && !faulty.compare_exchange_weak(before, i, std::memory_order_relaxed)) {
        }
      });
  if (const std::size_t i = faulty.load(std::memory_order_relaxed); i < pieces_.size())
    refuse(source, offsets[i] + pieces_[i].fault->at, pieces_[i].fault->what);
  for (const Piece<Value>& piece : pieces_) {
    rows_ += piece.rows;
    entries_ += piece.entries;
    lines_ += piece.lines;
    lowest_ = std::min(lowest_, piece.lowest);
    highest_ = std::max(highest_, piece.highest);
  }
}

template <class Value>
void Rows<Value>::move_to(const CsrArrays<Value>& to, std::size_t threads) {
  std::vector<std::size_t> row(pieces_.size() + 1), entry(pieces_.size() + 1);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    row[i + 1] = row[i] + pieces_[i].rows;
    entry[i + 1] = entry[i] + pieces_[i].entries;
  }
  dispense(
      pieces_.size(), threads, [] { return 0; },
      [&](std::size_t i, int) {
        const Piece<Value> piece = std::exchange(pieces_[i], {});
        const auto shift = to.first + static_cast<std::int64_t>(entry[i]);
        for (std::size_t k = 0; k < piece.rows; ++k) to.ends[row[i] + k] = piece.ends[k] + shift;
        std::copy_n(piece.labels.get(), piece.rows, to.labels + row[i]);
        if (to.queries != nullptr)
          std::copy_n(piece.queries.get(), piece.rows, to.queries + row[i]);
        for (std::size_t k = 0; k < piece.entries; ++k)
          to.columns[entry[i] + k] = piece.columns[k] - to.base;
        std::copy_n(piece.values.get(), piece.entries, to.values + entry[i]);
      });
  pieces_.clear();
  rows_ = entries_ = 0;
}

template class Rows<float>;
template class Rows<double>;

}  // namespace asyncopt::svmlight
