// Stochastic rounding, and what is not finite: in the numbers, the kernels and the check for it.
#include <cmath>
#include <limits>
#include <string>

#include "tensor.h"

using namespace asyncopt;
using namespace asyncopt::test;

namespace {

void check_rounding_of_numbers() {
  using Limits = std::numeric_limits<float>;
  constexpr int draws = 1 << 16;
  for (const float x : {1.0f, 1.001f, -1.001f, 3.14159f, -2.71828e20f, 1.5e-39f, 0.1f}) {
    const double below = bfloat16_below(x), above = bfloat16_above(x);
    // Every 16-bit draw once: the mean must be the value itself.
    double sum = 0;
    for (std::uint32_t r = 0; r < draws; ++r) {
      const double y = static_cast<double>(widen(narrow<bfloat16>(x, r)));
      if (std::abs(x) > Limits::min()) CHECK(y == below || y == above);
      sum += y;
    }
    CHECK_LE(std::abs(sum / draws - static_cast<double>(x)), 1e-12 * std::abs(sum / draws));
  }
  for (const std::uint32_t r : {0u, 1u, 0x7FFFu, 0x8000u, 0xFFFFu, 0xFFFFFFFFu}) {
    const auto rounded = [r](float x) { return widen(narrow<bfloat16>(x, r)); };
    CHECK_EQ(rounded(Limits::infinity()), Limits::infinity());
    CHECK_EQ(rounded(-Limits::infinity()), -Limits::infinity());
    CHECK(std::isnan(rounded(Limits::quiet_NaN())));
    CHECK(std::isnan(rounded(-Limits::quiet_NaN())));
    CHECK(std::isnan(rounded(__builtin_bit_cast(float, 0xFFFFFFFFu))));
    CHECK_EQ(rounded(0.0f), 0.0f);
    CHECK(std::signbit(rounded(-0.0f)));
    CHECK_EQ(rounded(1.5f), 1.5f);  // exact already
    const float largest = __builtin_bit_cast(float, 0x7F7F0000u);
    for (const float x : {largest, std::nextafter(largest, Limits::infinity()), Limits::max()}) {
      CHECK_EQ(rounded(x), largest);  // what is above is infinite
      CHECK_EQ(rounded(-x), -largest);
    }
  }
}

// The two halves of a draw are used for different values. The lags: near ones, those at which the
// multiples of a golden ratio nearly meet, and powers of two.
void check_correlations_of_draws() {
  constexpr std::size_t n = std::size_t{1} << 18;
  std::vector<std::uint32_t> lags;
  for (std::uint32_t lag = 1; lag <= 32; ++lag) lags.push_back(lag);
  for (std::uint32_t a = 21, b = 34; b < n; std::swap(a, b), b += a) {
    lags.push_back(b);
    lags.push_back(2 * b);
  }
  for (std::uint32_t lag = 64; lag < n; lag *= 2) lags.push_back(lag);
  lags.push_back(1220);
  lags.push_back(20143);
  constexpr std::uint32_t seed = 12345;
  const auto half = [](std::uint32_t draw, int which) {
    return static_cast<double>(draw >> 16 * which & 0xFFFFu) / 65535 - 0.5;
  };
  const double bound = 5 / std::sqrt(static_cast<double>(n));
  for (int which = 0; which < 2; ++which) {
    std::vector<double> draws(n), bins(256);
    for (std::size_t i = 0; i < n; ++i) {
      draws[i] = half(noise(seed, static_cast<std::uint32_t>(i)), which);
      ++bins[static_cast<std::size_t>((draws[i] + 0.5) * 255.99)];
    }
    double chi_squared = 0;
    for (const double count : bins)
      chi_squared += (count - n / 256.0) * (count - n / 256.0) / (n / 256.0);
    CHECK_LE(chi_squared / 255, 1.5);
    const auto check = [&](std::uint32_t other_seed, std::uint32_t lag) {
      double sum = 0;
      for (std::size_t i = 0; i < n; ++i)
        sum += draws[i] * half(noise(other_seed, static_cast<std::uint32_t>(i) + lag), which);
      current_case = "lag " + std::to_string(lag) + ", seed " + std::to_string(other_seed);
      CHECK_LE(std::abs(12 * sum / n), bound);
    };
    for (const std::uint32_t lag : lags) check(seed, lag);
    check(seed + 1, 0);  // the next word of the same element
    check(seed + 1, 1);
  }
}

// Rounding by `seed` over many pushes: unbiased, with separate draws for each array.
void check_rounding_of_kernels() {
  constexpr std::size_t n = 32;
  constexpr std::uint32_t seeds = count(4096, 1024);
  for (const Kernel& kernel : kernels()) {
    if (std::string_view(kernel.state_dtype) != "bfloat16") continue;
    for (const Loop loop : {Loop::racy, Loop::atomic}) {
      current_case = std::string(kernel.rule) + " " + kernel.param_dtype;
      Hyper hyper;
      for (const char* const name : kernel.hyper) hyper[name] = kValues.at(name).back();
      Guarded grad(kernel.param_dtype, kernel.param_bytes, n);
      Numbers numbers(11);
      std::vector<double> gradient(n);
      for (std::size_t i = 0; i < n; ++i) {
        grad.set(i, numbers());
        gradient[i] = grad[i];
      }
      const std::size_t arrays = 1 + kernel.slots.size();
      std::vector<Element> exact(n);
      // Per array: how many values rounded up, less what was to be expected; and its variance.
      std::vector<double> excess(arrays), variance(arrays);
      // Per pair of arrays: the sum of the products of their deviations; and its variance.
      std::vector<double> product(arrays * arrays), product_variance(arrays * arrays);
      for (std::uint32_t seed = 0; seed < seeds; ++seed) {
        Tensor tensor(kernel, n, hyper);
        for (std::size_t i = 0; i < n; ++i) exact[i] = tensor.element(i);
        kReferences.at(kernel.rule)(hyper, 1, gradient, exact);
        tensor.step(loop, n, grad.data(), noise(seed, 1));  // as a push's first tensor
        for (std::size_t i = 0; i < n; ++i) {
          const Element got = tensor.element(i);
          double deviation[1 + kMaxSlots] = {}, spread[1 + kMaxSlots] = {};
          for (std::size_t a = 0; a < arrays; ++a) {
            if (a == 0 && std::string_view(kernel.param_dtype) != "bfloat16") continue;
            const double x = a == 0 ? exact[i].w : exact[i].s[a - 1];
            const double y = a == 0 ? got.w : got.s[a - 1];
            const double below = bfloat16_below(x), unit = bfloat16_above(x) - below;
            if (unit == 0) continue;
            const double up = (x - below) / unit;
            deviation[a] = (y > x ? 1 : 0) - up;
            spread[a] = up * (1 - up);
            excess[a] += deviation[a];
            variance[a] += spread[a];
          }
          for (std::size_t a = 0; a < arrays; ++a)
            for (std::size_t b = 0; b < a; ++b) {
              product[a * arrays + b] += deviation[a] * deviation[b];
              product_variance[a * arrays + b] += spread[a] * spread[b];
            }
        }
      }
      for (std::size_t a = 0; a < arrays; ++a) {
        CHECK_LE(std::abs(excess[a]), 4 * std::sqrt(variance[a]));
        for (std::size_t b = 0; b < a; ++b)
          CHECK_LE(std::abs(product[a * arrays + b]),
                   4 * std::sqrt(product_variance[a * arrays + b]));
      }
    }
  }
}

// Bad gradients reach the parameter as in torch, and rounding does not make them finite.
void check_nonfinite_stay() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const Kernel& kernel : kernels()) {
    if (kernel.row_slots > 0) continue;  // a bad gradient is its whole row's
    for (const Loop loop : {Loop::racy, Loop::atomic, Loop::audit})
      for (const double bad : {inf, -inf, std::numeric_limits<double>::quiet_NaN()}) {
        current_case = std::string(kernel.rule) + " " + kernel.param_dtype;
        Hyper hyper;
        for (const char* const name : kernel.hyper) hyper[name] = kValues.at(name).front();
        Tensor tensor(kernel, 17, hyper);
        Guarded grad(kernel.param_dtype, kernel.param_bytes, 17);
        for (std::size_t i = 0; i < 17; ++i) grad.set(i, i % 4 == 0 ? bad : 0.5);
        for (std::uint32_t seed = 0; seed < 8; ++seed) tensor.step(loop, 17, grad.data(), seed);
        for (std::size_t i = 0; i < 17; ++i) CHECK_EQ(std::isfinite(tensor.param[i]), i % 4 != 0);

        // Without weight decay an infinite parameter is no part of the gradient.
        if (std::isnan(bad)) continue;
        Tensor infinite(kernel, 17, hyper);
        for (std::size_t i = 0; i < 17; ++i) {
          infinite.param.set(i, bad);
          grad.set(i, 0.5);
        }
        infinite.step(loop, 17, grad.data(), 1);
        for (std::size_t i = 0; i < 17; ++i) CHECK_EQ(infinite.param[i], bad);
      }
  }
}

// Rounding each slot by itself mixes a state that no gradients lead to: it stays finite, and second
// moments do not become negative.
void check_long_runs_stay_finite() {
  constexpr std::size_t n = 64;
  constexpr std::uint32_t steps = count(3000, 300);
  for (const Kernel& kernel : kernels()) {
    if (std::string_view(kernel.state_dtype) != "bfloat16") continue;
    for (const Loop loop : {Loop::racy, Loop::atomic})
      for (const bool alternates : {false, true}) {
        current_case = std::string(kernel.rule) + " " + kernel.param_dtype;
        Hyper hyper;
        for (const char* const name : kernel.hyper) hyper[name] = kValues.at(name).front();
        hyper["lr"] = 1e-4;
        hyper["alpha"] = 0.99;
        Tensor tensor(kernel, n, hyper);
        Guarded grad(kernel.param_dtype, kernel.param_bytes, n);
        for (std::uint32_t t = 0; t < steps; ++t) {
          for (std::size_t i = 0; i < n; ++i) grad.set(i, alternates && t % 2 == 1 ? -1 : 1);
          tensor.step(loop, n, grad.data(), t);
        }
        for (std::size_t i = 0; i < n; ++i) {
          CHECK(std::isfinite(tensor.param[i]));
          for (std::size_t s = 0; s < kernel.slots.size(); ++s) {
            CHECK(std::isfinite(tensor.slots[s][i]));
            const std::string_view slot = kernel.slots[s];
            if (slot.ends_with("_sq") || slot == "square_avg" || slot == "acc_delta")
              CHECK_LE(0, tensor.slots[s][i]);
          }
        }
      }
  }
}

void check_finite() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  for (const char* const dtype : {"float32", "float64", "bfloat16"}) {
    const Kernel& kernel = kernel_of("sgd", dtype);
    for (const std::size_t n : {0u, 1u, 15u, 16u, 17u, 49u, 4095u, 4096u, 4097u, 10000u}) {
      Guarded values(dtype, kernel.param_bytes, n);
      for (std::size_t i = 0; i < n; ++i) values.set(i, i % 2 == 0 ? 3e38 : -1e-40);
      CHECK(kernel.loops.finite(values.data(), n));
      if (n == 0) continue;
      for (const double bad : {inf, -inf, std::numeric_limits<double>::quiet_NaN()})
        for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
          const double good = values[at];
          values.set(at, bad);
          CHECK(!kernel.loops.finite(values.data(), n));
          values.set(at, good);
        }
    }
  }
}

}  // namespace

int main() {
  check_rounding_of_numbers();
  check_correlations_of_draws();
  in_every_isa([] {
    check_rounding_of_kernels();
    check_nonfinite_stay();
    check_long_runs_stay_finite();
    check_finite();
    return std::uint64_t{0};
  });
}
