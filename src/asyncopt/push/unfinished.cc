#include "asyncopt/push/unfinished.h"

#include <algorithm>
#include <limits>

namespace asyncopt {

Unfinished::Tensor::Run Unfinished::Tensor::run(std::size_t element) const {
  const auto next = std::ranges::upper_bound(done, element, {}, &Range::begin);
  if (next != done.begin() && element < std::prev(next)->end)
    return {true, std::prev(next)->end - element};
  const std::size_t end =
      next == done.end() ? std::numeric_limits<std::size_t>::max() : next->begin;
  return {false, end - element};
}

void Unfinished::Tensor::add(std::vector<Range> more) {
  more.insert(more.end(), done.begin(), done.end());
  std::ranges::sort(more, {}, &Range::begin);
  done.clear();
  for (const Range& range : more) {
    if (range.begin == range.end) continue;
    if (!done.empty() && range.begin <= done.back().end)
      done.back().end = std::max(done.back().end, range.end);
    else
      done.push_back(range);
  }
}

std::size_t Unfinished::elements() const {
  std::size_t sum = 0;
  for (const Tensor& tensor : open_)
    for (const Range& range : tensor.done) sum += range.end - range.begin;
  return sum;
}

const Unfinished::Tensor* Unfinished::find(std::uintptr_t param) const {
  const auto found = std::ranges::find(open_, param, &Tensor::param);
  return found == open_.end() ? nullptr : &*found;
}

Unfinished::Tensor& Unfinished::open(std::uintptr_t param) {
  const auto found = std::ranges::find(open_, param, &Tensor::param);
  return found == open_.end() ? open_.emplace_back(Tensor{param, {}, 0, {}}) : *found;
}

bool Unfinished::is_closed(std::uintptr_t param) const {
  return std::ranges::find(closed_, param) != closed_.end();
}

void Unfinished::close(std::uintptr_t param) {
  std::erase_if(open_, [param](const Tensor& tensor) { return tensor.param == param; });
  if (!is_closed(param)) closed_.push_back(param);
}

}  // namespace asyncopt
