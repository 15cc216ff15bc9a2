// A scalar float64 reference of the rules, written from the formulas in torch's documentation,
// without code of the engine; and the hyperparameters to test them with.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "asyncopt/kernels/kernels.h"

namespace asyncopt::test {

using Hyper = std::map<std::string, double>;

// One element: its parameter and its slots in the order of the kernel's names.
struct Element {
  double w;
  double s[kMaxSlots];
};

// torch's names: g gradient, t step. Each function updates the elements of one row in place; state
// of the whole row is in the first element's slots.
using Reference =
    std::function<void(const Hyper&, double t, std::span<const double> g, std::span<Element>)>;

inline void sgd(const Hyper& h, bool momentum, double t, double g, Element& e) {
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  if (momentum) {
    e.s[0] = t > 1 ? h.at("momentum") * e.s[0] + (1 - h.at("dampening")) * g : g;
    g = h.at("nesterov") != 0 ? g + h.at("momentum") * e.s[0] : e.s[0];
  }
  e.w -= h.at("lr") * g;
}

inline void adam(const Hyper& h, bool amsgrad, double t, double g, Element& e) {
  const double beta1 = h.at("beta1"), beta2 = h.at("beta2");
  if (h.at("maximize") != 0) g = -g;
  if (h.at("decoupled_weight_decay") != 0)
    e.w -= h.at("lr") * h.at("weight_decay") * e.w;
  else
    g += h.at("weight_decay") * e.w;
  e.s[0] = beta1 * e.s[0] + (1 - beta1) * g;
  e.s[1] = beta2 * e.s[1] + (1 - beta2) * g * g;
  if (amsgrad) e.s[2] = std::max(e.s[2], e.s[1]);
  const double first = e.s[0] / (1 - std::pow(beta1, t));
  const double second = (amsgrad ? e.s[2] : e.s[1]) / (1 - std::pow(beta2, t));
  e.w -= h.at("lr") * first / (std::sqrt(second) + h.at("eps"));
}

inline void adagrad(const Hyper& h, double t, double g, Element& e) {
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.s[0] += g * g;
  const double lr = h.at("lr") / (1 + (t - 1) * h.at("lr_decay"));
  e.w -= lr * g / (std::sqrt(e.s[0]) + h.at("eps"));
}

inline void adadelta(const Hyper& h, double, double g, Element& e) {
  const double rho = h.at("rho"), eps = h.at("eps");
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.s[0] = rho * e.s[0] + (1 - rho) * g * g;
  const double delta = std::sqrt(e.s[1] + eps) / std::sqrt(e.s[0] + eps) * g;
  e.s[1] = rho * e.s[1] + (1 - rho) * delta * delta;
  e.w -= h.at("lr") * delta;
}

inline void rmsprop(const Hyper& h, bool centered, bool momentum, double, double g, Element& e) {
  const double alpha = h.at("alpha");
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.s[0] = alpha * e.s[0] + (1 - alpha) * g * g;
  double second = e.s[0];
  if (centered) {
    e.s[1] = alpha * e.s[1] + (1 - alpha) * g;
    second -= e.s[1] * e.s[1];
  }
  double step = g / (std::sqrt(second) + h.at("eps"));
  if (momentum) {
    double& buffer = e.s[centered ? 2 : 1];
    step = buffer = h.at("momentum") * buffer + step;
  }
  e.w -= h.at("lr") * step;
}

// eta and mu of step t are those that step t - 1 left; torch starts with lr and 1, and keeps both
// in float32.
inline float asgd_eta(const Hyper& h, double t) {
  if (t == 1) return static_cast<float>(h.at("lr"));
  return static_cast<float>(h.at("lr") /
                            std::pow(1 + h.at("lambd") * h.at("lr") * (t - 1), h.at("alpha")));
}
inline float asgd_mu(const Hyper& h, double t) {
  return t == 1 ? 1 : static_cast<float>(1 / std::max(1.0, t - 1 - h.at("t0")));
}
inline void asgd(const Hyper& h, double t, double g, Element& e) {
  const double eta = static_cast<double>(asgd_eta(h, t)), mu = static_cast<double>(asgd_mu(h, t));
  if (h.at("maximize") != 0) g = -g;
  g += h.at("weight_decay") * e.w;
  e.w = e.w * (1 - h.at("lambd") * eta) - eta * g;
  e.s[0] = mu == 1 ? e.w : e.s[0] + (e.w - e.s[0]) * mu;
}

// The mean of the squared gradients, each with the weight decay that is part of it.
template <class Decayed>
double mean_square(std::span<const double> g, std::span<const Element> row, Decayed decayed) {
  double sum = 0;
  for (std::size_t i = 0; i < row.size(); ++i) sum += std::pow(decayed(g[i], row[i].w), 2);
  return sum / static_cast<double>(row.size());
}
inline void rowwise_adagrad(const Hyper& h, double t, std::span<const double> g,
                            std::span<Element> row) {
  if (row.empty()) return;
  const auto decayed = [&h](double x, double w) {
    return (h.at("maximize") != 0 ? -x : x) + h.at("weight_decay") * w;
  };
  row[0].s[0] += mean_square(g, row, decayed);
  const double lr = h.at("lr") / (1 + (t - 1) * h.at("lr_decay"));
  for (std::size_t i = 0; i < row.size(); ++i)
    row[i].w -= lr * decayed(g[i], row[i].w) / (std::sqrt(row[0].s[0]) + h.at("eps"));
}
inline void rowwise_adam(const Hyper& h, double t, std::span<const double> g,
                         std::span<Element> row) {
  if (row.empty()) return;
  const double beta1 = h.at("beta1"), beta2 = h.at("beta2"), wd = h.at("weight_decay");
  const bool decoupled = h.at("decoupled_weight_decay") != 0;
  const auto decayed = [&](double x, double w) {
    return (h.at("maximize") != 0 ? -x : x) + (decoupled ? 0 : wd * w);
  };
  double& second = row[0].s[1];
  second = beta2 * second + (1 - beta2) * mean_square(g, row, decayed);
  for (std::size_t i = 0; i < row.size(); ++i) {
    Element& e = row[i];
    e.s[0] = beta1 * e.s[0] + (1 - beta1) * decayed(g[i], e.w);
    if (decoupled) e.w -= h.at("lr") * wd * e.w;
    e.w -= h.at("lr") * e.s[0] / (1 - std::pow(beta1, t)) /
           (std::sqrt(second / (1 - std::pow(beta2, t))) + h.at("eps"));
  }
}

template <auto Function, auto... Flags>
Reference reference() {
  return [](const Hyper& h, double t, std::span<const double> g, std::span<Element> row) {
    for (std::size_t i = 0; i < row.size(); ++i) Function(h, Flags..., t, g[i], row[i]);
  };
}

inline const std::map<std::string, Reference> kReferences{
    {"sgd", reference<sgd, false>()},
    {"sgd_momentum", reference<sgd, true>()},
    {"adam", reference<adam, false>()},
    {"adam_amsgrad", reference<adam, true>()},
    {"adagrad", reference<adagrad>()},
    {"adadelta", reference<adadelta>()},
    {"rmsprop", reference<rmsprop, false, false>()},
    {"rmsprop_momentum", reference<rmsprop, false, true>()},
    {"rmsprop_centered", reference<rmsprop, true, false>()},
    {"rmsprop_centered_momentum", reference<rmsprop, true, true>()},
    {"asgd", reference<asgd>()},
    {"adagrad_rowwise", rowwise_adagrad},
    {"adam_rowwise", rowwise_adam},
};

// The values that each hyperparameter takes, in all combinations.
inline const std::map<std::string, std::vector<double>> kValues{
    {"lr", {0.1}},           {"momentum", {0.9}},
    {"dampening", {0, 0.3}}, {"weight_decay", {0, 0.2}},
    {"nesterov", {0, 1}},    {"maximize", {0, 1}},
    {"beta1", {0.8}},        {"beta2", {0.95}},
    {"eps", {1e-3}},         {"decoupled_weight_decay", {0, 1}},
    {"lr_decay", {0, 0.5}},  {"rho", {0.9}},
    {"alpha", {0.75}},       {"lambd", {0.01}},
    {"t0", {1, 1e6}},
};

}  // namespace asyncopt::test
