// Device kernels: the work of each thread of each block. nvcc compiles them (csrc/cuda); the tests
// loop over blocks and threads. The arithmetic is that of the rules.
//
// `hogwild`, the counterpart of racy_loop, uses plain loads and stores, of 16 bytes if all arrays
// of a tensor are aligned. For streams and processes that write the same memory it guarantees only
// that an element is read and written whole. `atomic`, the counterpart of exact_loop, commits each
// element by compare-exchange, or by an atomic addition if the rule only adds.
#pragma once

#include <type_traits>

#include "asyncopt/device/layout.h"
#include "asyncopt/kernels/exchange.h"

#ifdef __CUDA_ARCH__
#define ASYNCOPT_UNROLL _Pragma("unroll")
#else
#define ASYNCOPT_UNROLL
#endif

namespace asyncopt::device {

template <class Rule>
inline constexpr std::size_t slot_count = Rule::slot_names.size();
template <class Rule>
inline constexpr std::size_t scalar_count = Rule::scalar_names.size();

// A thread's place in a launch.
struct Place {
  unsigned block, blocks, thread;
};

// N elements at an address that is a multiple of 16 bytes.
template <class T, std::size_t N>
struct alignas(kVector) Pack {
  T values[N];
};
template <std::size_t N, class T>
ASYNCOPT_HD ASYNCOPT_INLINE Pack<T, N>& pack_at(T* array, std::size_t i) {
  return reinterpret_cast<Pack<T, N>*>(array)[i];
}
template <std::size_t N, class T>
ASYNCOPT_HD ASYNCOPT_INLINE const Pack<T, N>& pack_at(const T* array, std::size_t i) {
  return reinterpret_cast<const Pack<T, N>*>(array)[i];
}

constexpr std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }

// A chunk's place in its tensor.
struct ElementRange {
  std::size_t begin, n;
};
ASYNCOPT_HD ASYNCOPT_INLINE ElementRange range_of(const TensorChunk& chunk, const Tensor& tensor) {
  const std::size_t begin = chunk.number * kBlockElements, left = tensor.n - begin;
  return {begin, left < kBlockElements ? left : kBlockElements};
}

// --- Check ---------------------------------------------------------------------------------------

template <class T>
ASYNCOPT_HD void check(const CheckArgs& args, const Place& place) {
  constexpr std::size_t N = kVector / sizeof(T);
  bool bad = false;
  for (unsigned c = place.block; c < args.part.chunk_count; c += place.blocks) {
    const Tensor& tensor = args.part.tensors[args.part.chunks[c].tensor];
    const ElementRange range = range_of(args.part.chunks[c], tensor);
    const T* const g = static_cast<const T*>(tensor.grad) + range.begin;
    const std::size_t vectors = tensor.aligned != 0 ? range.n / N : 0;
    for (std::size_t v = place.thread; v < vectors; v += kThreads) {
      const Pack<T, N> pack = pack_at<N>(g, v);
      ASYNCOPT_UNROLL
      for (std::size_t k = 0; k < N; ++k) bad |= !is_finite(pack.values[k]);
    }
    for (std::size_t i = vectors * N + place.thread; i < range.n; i += kThreads)
      bad |= !is_finite(g[i]);
  }
  if (bad) args.part.clock->bad = 1;  // all writers write the same value
}

// --- Prepare -------------------------------------------------------------------------------------

template <class Rule, class C>
ASYNCOPT_HD void prepare(const PrepareArgs& args, const Place& place) {
  using Hyper = typename Rule::Hyper;
  using Coef = typename Rule::template Coef<C>;
  constexpr std::size_t scalars_used = scalar_count<Rule>;
  const unsigned i = args.begin + place.block * kPrepareThreads + place.thread;
  if (i >= args.end) return;
  const Tensor& tensor = args.part.tensors[i];
  const Clock& clock = *args.part.clock;
  TensorStep& record = args.part.records[i];

  record.skip = clock.bad != 0 || (args.found_inf != nullptr && *args.found_inf != 0) ? 1 : 0;
  record.seed = noise(noise(args.seed + clock.pushes, tensor.ordinal), 0);
  record.unscale = args.grad_scale != nullptr ? 1 / static_cast<double>(*args.grad_scale) : 1;
  if (record.skip != 0) return;

  const unsigned group = tensor.group - args.first_group;
  Hyper hyper = *reinterpret_cast<const Hyper*>(args.hyper[group]);
  const Rate& rate = args.rates[group];
  if (rate.at != nullptr)
    hyper.lr = rate.bytes == sizeof(float)
                   ? static_cast<double>(*static_cast<const float*>(rate.at))
                   : *static_cast<const double*>(rate.at);
  double scalars[kMaxScalars] = {};
  // Every worker counts, and no count is lost, as on the host.
  if constexpr (scalars_used > 0) scalars[0] = 1 + fetch_add_relaxed(tensor.scalars, 1.0);
  for (std::size_t k = 1; k < scalars_used; ++k) scalars[k] = tensor.scalars[k];
  *reinterpret_cast<Coef*>(record.coef) = Rule::template prepare<C>(hyper, scalars);
  for (std::size_t k = 1; k < scalars_used; ++k) tensor.scalars[k] = scalars[k];
}

// --- Update --------------------------------------------------------------------------------------

// A tensor's arrays, from a chunk's first element on.
template <std::size_t K, class T, class S>
struct Arrays {
  T *w, *g;
  S* s[K + 1];

  ASYNCOPT_HD ASYNCOPT_INLINE Arrays(const Tensor& tensor, std::size_t begin)
      : w(static_cast<T*>(tensor.param) + begin), g(static_cast<T*>(tensor.grad) + begin), s{} {
    for (std::size_t k = 0; k < K; ++k) s[k] = static_cast<S*>(tensor.slots[k]) + begin;
  }
};

template <class Rule, class T, class S, class C>
struct ElementUpdate {
  static constexpr std::size_t K = slot_count<Rule>;
  // Elements of a vector: 16 bytes of the narrowest array.
  static constexpr std::size_t N = kVector / (K > 0 ? smaller(sizeof(T), sizeof(S)) : sizeof(T));
  // Vectors that a thread loads before it computes, so that at least 4 loads are in flight.
  static constexpr std::size_t kLoads = N * (2 * sizeof(T) + K * sizeof(S)) / kVector;
  static constexpr std::size_t kAhead = kLoads < 4 ? 2 : 1;

  typename Rule::template Coef<C> coef;
  C unscale;
  std::uint32_t seed;

  ASYNCOPT_HD ASYNCOPT_INLINE explicit ElementUpdate(const TensorStep& record)
      : coef(*reinterpret_cast<const typename Rule::template Coef<C>*>(record.coef)),
        unscale(static_cast<C>(record.unscale)),
        seed(record.seed) {}

  // Gradients are written back unscaled, like torch's fused optimizers do.
  ASYNCOPT_HD ASYNCOPT_INLINE bool writes_gradients() const { return unscale != 1; }
  ASYNCOPT_HD ASYNCOPT_INLINE T unscaled(T g) const {
    return nearest<T>(static_cast<C>(widen(g)) * unscale);
  }

  ASYNCOPT_HD ASYNCOPT_INLINE Draws<K, T, S> draws_of(std::size_t i) const {
    return Draws<K, T, S>(weyl(seed, static_cast<std::uint32_t>(i)));
  }

  // Element `i` of its tensor. s[]: its slots.
  ASYNCOPT_HD ASYNCOPT_INLINE void element(std::size_t i, T& w, T g, S* s) const {
    const Draws<K, T, S> draws = draws_of(i);
    C x = widen(w), values[kMaxSlots] = {};
    for (std::size_t k = 0; k < K; ++k) values[k] = widen(s[k]);
    Rule::apply(coef, x, static_cast<C>(widen(g)) * unscale, values);
    w = narrow<T>(x, draws.param());
    for (std::size_t k = 0; k < K; ++k) s[k] = narrow<S>(values[k], draws.slot(k));
  }

  // Vectors first, first + kThreads, ... of `count`, kAhead of them. `begin`: the chunk's place.
  ASYNCOPT_HD ASYNCOPT_INLINE void vectors(const Arrays<K, T, S>& at, std::size_t begin,
                                           std::size_t first, std::size_t count) const {
    Pack<T, N> w[kAhead] = {}, g[kAhead] = {};
    Pack<S, N> s[kAhead][K + 1] = {};
    ASYNCOPT_UNROLL
    for (std::size_t a = 0; a < kAhead; ++a) {
      const std::size_t v = first + a * kThreads;
      if (v >= count) break;
      w[a] = pack_at<N>(at.w, v);
      g[a] = pack_at<N>(at.g, v);
      ASYNCOPT_UNROLL
      for (std::size_t k = 0; k < K; ++k) s[a][k] = pack_at<N>(at.s[k], v);
    }
    ASYNCOPT_UNROLL
    for (std::size_t a = 0; a < kAhead; ++a) {
      const std::size_t v = first + a * kThreads;
      if (v >= count) break;
      if (writes_gradients()) {
        Pack<T, N> left = {};
        ASYNCOPT_UNROLL
        for (std::size_t e = 0; e < N; ++e) left.values[e] = unscaled(g[a].values[e]);
        pack_at<N>(at.g, v) = left;
      }
      ASYNCOPT_UNROLL
      for (std::size_t e = 0; e < N; ++e) {
        S slots[K + 1] = {};
        for (std::size_t k = 0; k < K; ++k) slots[k] = s[a][k].values[e];
        element(begin + v * N + e, w[a].values[e], g[a].values[e], slots);
        for (std::size_t k = 0; k < K; ++k) s[a][k].values[e] = slots[k];
      }
      pack_at<N>(at.w, v) = w[a];
      ASYNCOPT_UNROLL
      for (std::size_t k = 0; k < K; ++k) pack_at<N>(at.s[k], v) = s[a][k];
    }
  }

  ASYNCOPT_HD ASYNCOPT_INLINE void hogwild(const Tensor& tensor, const ElementRange& range,
                                           unsigned thread) const {
    const Arrays<K, T, S> at(tensor, range.begin);
    const std::size_t whole = tensor.aligned != 0 ? range.n / N : 0;
    for (std::size_t v = thread; v < whole; v += kAhead * kThreads)
      vectors(at, range.begin, v, whole);
    for (std::size_t i = whole * N + thread; i < range.n; i += kThreads) {
      S slots[K + 1] = {};
      for (std::size_t k = 0; k < K; ++k) slots[k] = at.s[k][i];
      const T g = at.g[i];
      if (writes_gradients()) at.g[i] = unscaled(g);
      element(range.begin + i, at.w[i], g, slots);
      for (std::size_t k = 0; k < K; ++k) at.s[k][i] = slots[k];
    }
  }

  ASYNCOPT_HD ASYNCOPT_INLINE void atomic(const Tensor& tensor, const ElementRange& range,
                                          unsigned thread) const {
    T* const g = static_cast<T*>(tensor.grad);
    for (std::size_t i = range.begin + thread; i < range.begin + range.n; i += kThreads) {
      const C gradient = static_cast<C>(widen(g[i])) * unscale;
      if (writes_gradients()) g[i] = unscaled(g[i]);
      if constexpr (std::is_same_v<T, C> && requires { Rule::addend(coef, gradient); })
        if (Rule::adds(coef)) {
          fetch_add_relaxed(static_cast<T*>(tensor.param) + i, Rule::addend(coef, gradient));
          continue;
        }
      Tally uncounted;
      commit_element<K, T, S, true>(tensor.param, tensor.slots, i, draws_of(i), uncounted,
                                    [&](C& x, C* s) { Rule::apply(coef, x, gradient, s); });
    }
  }
};

template <class Rule, class T, class S, bool Atomic>
ASYNCOPT_HD void update(const UpdateArgs& args, const Place& place) {
  for (unsigned c = place.block; c < args.part.chunk_count; c += place.blocks) {
    const TensorChunk chunk = args.part.chunks[c];
    const Tensor& tensor = args.part.tensors[chunk.tensor];
    const TensorStep& record = args.part.records[chunk.tensor];
    if (record.skip != 0) break;  // all tensors of a step are skipped together
    const ElementUpdate<Rule, T, S, arithmetic_t<T>> update(record);
    if constexpr (Atomic)
      update.atomic(tensor, range_of(chunk, tensor), place.thread);
    else
      update.hogwild(tensor, range_of(chunk, tensor), place.thread);
  }
  if (args.is_last != 0 && place.block == 0 && place.thread == 0) {
    Clock& clock = *args.part.clock;  // no other thread of this launch accesses it
    ++clock.pushes;
    clock.skipped += args.part.records[0].skip;
    clock.bad = 0;
  }
}

}  // namespace asyncopt::device
