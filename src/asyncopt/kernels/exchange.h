// One element committed by compare-exchange, on the host and on GPUs.
#pragma once

#include "asyncopt/base/atomic.h"
#include "asyncopt/base/counters.h"
#include "asyncopt/base/draws.h"
#include "asyncopt/rules/rules.h"

namespace asyncopt {

// Compare-and-swap of `*at` from `seen` to the bits of next(). On failure, calls compute() for the
// value found and retries, or, without Retry, drops the update and counts it as lost.
template <bool Retry, class T, class Next, class Compute>
ASYNCOPT_HD ASYNCOPT_INLINE void commit(bits_t<T>* at, bits_t<T>& seen, std::uint64_t& lost,
                                        std::uint64_t& retries, Next next, Compute compute) {
  while (!compare_exchange_relaxed(at, seen, cast_bits<bits_t<T>>(next()))) {
    if constexpr (!Retry) {
      ++lost;
      return;
    }
    ++retries;
    compute();
  }
}

// Updates one element with K slots: commits the slots first, the parameter last. `apply(x, s)`
// updates a parameter and its slots. On a conflict, the value is recomputed from the one found
// (nothing is lost), or its update is dropped and counted, like the update that a racing plain
// store would have overwritten.
template <std::size_t K, class T, class S, bool Retry, class Apply>
ASYNCOPT_HD ASYNCOPT_INLINE void commit_element(void* param, void* const* slots, std::size_t i,
                                                const Draws<K, T, S>& draws, Tally& tally,
                                                Apply apply) {
  using C = arithmetic_t<T>;
  bits_t<T>* const at = static_cast<bits_t<T>*>(param) + i;
  bits_t<T> seen = load_relaxed(at);
  bits_t<S> seen_slots[kMaxSlots] = {};
  for (std::size_t k = 0; k < K; ++k)
    seen_slots[k] = load_relaxed(static_cast<const bits_t<S>*>(slots[k]) + i);

  C x{}, s[kMaxSlots] = {};
  const auto compute = [&] {
    x = widen(cast_bits<T>(seen));
    for (std::size_t k = 0; k < K; ++k) s[k] = widen(cast_bits<S>(seen_slots[k]));
    apply(x, s);
  };
  compute();
  for (std::size_t k = 0; k < K; ++k)
    commit<Retry, S>(
        static_cast<bits_t<S>*>(slots[k]) + i, seen_slots[k], tally.lost_state_updates,
        tally.retries, [&] { return narrow<S>(s[k], draws.slot(k)); }, compute);
  commit<Retry, T>(
      at, seen, tally.lost_updates, tally.retries, [&] { return narrow<T>(x, draws.param()); },
      compute);
}

}  // namespace asyncopt
