// Progress of a push interrupted by a LockTimeout, with which the worker's next push finishes it
// without updating any element twice.
//
// Private to a worker. The next push may bring the same gradients, or new ones if the caller
// dropped the first ones; in both cases each element takes exactly one gradient per push that the
// store counts. A tensor that the interrupted push had finished is skipped. If it had begun a
// tensor, the rest is updated with the coefficients that it began with, and neither the tensor's
// step nor its journal counts the push again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "asyncopt/push/journal.h"

namespace asyncopt {

class Unfinished {
 public:
  struct Range {
    std::size_t begin, end;  // elements
  };

  // A tensor that the interrupted push had begun and not finished.
  struct Tensor {
    std::uintptr_t param;  // position of the parameter
    Record record;
    std::uint64_t number = 0;  // of the push in the tensor's journal; 0: not counted there
    std::vector<Range> done;   // sorted and disjoint

    bool has(std::size_t element) const { return run(element).is_done; }
    // State of an element, and the number of elements from it on with the same state.
    struct Run {
      bool is_done;
      std::size_t length;
    };
    Run run(std::size_t element) const;
    void add(std::vector<Range> more);
  };

  // True if a push was interrupted, after it had counted a step or updated an element.
  bool is_interrupted() const { return interrupted_; }
  // Number of elements that the interrupted push has updated in tensors that it had not finished.
  std::size_t elements() const;

  const Tensor* find(std::uintptr_t param) const;
  Tensor& open(std::uintptr_t param);
  bool is_closed(std::uintptr_t param) const;
  void close(std::uintptr_t param);

  void interrupt() { interrupted_ = !open_.empty() || !closed_.empty(); }
  void clear() { *this = {}; }

 private:
  std::vector<Tensor> open_;
  std::vector<std::uintptr_t> closed_;  // tensors that are done
  bool interrupted_ = false;
};

}  // namespace asyncopt
