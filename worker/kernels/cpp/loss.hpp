// Gated activation, embedding, cross-entropy.
#pragma once
#include "vector.hpp"
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace {

// What a gate becomes, and its slope.
struct Silu {
  static void at(F x, F &value, F &slope) {
    F s = sigmoid(x);
    value = x * s;
    slope = s + value * (splat(1.0f) - s);
  }
};
// GELU by its approximation with a hyperbolic tangent (Hendrycks & Gimpel 2016): (1 + tanh u) / 2 = sigmoid(2 u).
struct GeluTanh {
  static void at(F x, F &value, F &slope) {
    const F twice = splat(1.5957691216f), cubed = splat(0.044715f); // 2 * sqrt(2 / pi)
    F s = sigmoid(twice * (x + cubed * x * x * x));
    value = x * s;
    slope = s + value * (splat(1.0f) - s) * twice * (splat(1.0f) + splat(3.0f) * cubed * x * x);
  }
};

// A gated unit (Shazeer 2020): gate and up side by side [rows, 2 * width] to gate' * up [rows, width].
template <class T, class Gate> void gated(const T *gate_up, T *out, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const T *gate = gate_up + r * 2 * width, *up = gate + width;
    each(width, [&](int64_t i, auto n) {
      F value, slope;
      Gate::at(load(gate + i, n), value, slope);
      store(out + r * width + i, value * load(up + i, n), n);
    });
  }
}

// In place: gate_up becomes its gradient, d_out becomes the forward value, which the next product needs.
template <class T, class Gate> void gated_backward(T *gate_up, T *d_out, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    T *gate = gate_up + r * 2 * width, *up = gate + width, *d = d_out + r * width;
    each(width, [&](int64_t i, auto n) {
      F value, slope, u = load(up + i, n), grad = load(d + i, n);
      Gate::at(load(gate + i, n), value, slope);
      store(gate + i, grad * u * slope, n);
      store(up + i, grad * value, n);
      store(d + i, value * u, n);
    });
  }
}

template <class T> void embed(const T *table, const int64_t *tokens, T *out, int64_t rows, int64_t h) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) std::memcpy(out + r * h, table + tokens[r] * h, h * sizeof(T));
}

// Rows of the table's gradient += the gradients of their tokens, each token's rows in order and in fp32.
template <class T, class G>
void embed_backward(const T *dx, const int64_t *tokens, G *grad, int64_t rows, int64_t h) {
  std::vector<std::pair<int64_t, int64_t>> places(rows);
  for (int64_t r = 0; r < rows; r++) places[r] = {tokens[r], r};
  std::sort(places.begin(), places.end());
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < rows; i++)
    if (i == 0 || places[i].first != places[i - 1].first) starts.push_back(i);
  int64_t distinct = starts.size();
  starts.push_back(rows);
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t d = 0; d < distinct; d++) {
    G *out = grad + places[starts[d]].first * h;
    each(h, [&](int64_t i, auto n) {
      F total = load(out + i, n);
      for (int64_t p = starts[d]; p < starts[d + 1]; p++) total = total + load(dx + places[p].second * h + i, n);
      store(out + i, total, n);
    });
  }
}

// losses := -log softmax(logits)[target], nats, 0 where the target is negative. With `backward`, logits becomes its
// gradient times scale. CAPPED: logits are cap * tanh(logits / cap).
template <class T, bool CAPPED>
void cross_entropy_of(T *logits, const int64_t *targets, float *losses, float scale, float cap, bool backward,
                      int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    static thread_local std::vector<float> scratch;
    if (int64_t(scratch.size()) < width) scratch.resize(width);
    T *row = logits + r * width;
    float *e = scratch.data();
    int64_t target = targets[r];
    if (target < 0) {
      losses[r] = 0.0f;
      if (backward) std::memset((void *)row, 0, width * sizeof(T));
      continue;
    }
    F most = splat(-INFINITY), total = {};
    auto value = [&](int64_t i, auto n) { return CAPPED ? capped(load(row + i, n), cap) : load(row + i, n); };
    each(width, [&](int64_t i, auto n) { most = vmax(most, only(value(i, n), n, -INFINITY)); });
    float top = largest(most);
    each(width, [&](int64_t i, auto n) {
      F v = vexp(value(i, n) - splat(top));
      if (backward) store(e + i, v, n);
      total = total + only(v, n, 0.0f);
    });
    float all = sum(total), hit = to_float(row[target]);
    if (CAPPED) hit = capped(splat(hit), cap)[0];
    losses[r] = top + std::log(all) - hit;
    if (!backward) continue;
    F share = splat(scale / all);
    each(width, [&](int64_t i, auto n) {
      F g = load(e + i, n) * share;
      if (CAPPED) g = g * cap_slope(value(i, n), cap);
      store(row + i, g, n);
    });
    float own = e[target] * scale / all - scale;
    if (CAPPED) own *= cap_slope(splat(hit), cap)[0];
    from_float(row + target, own);
  }
}

// `cap` 0 is none.
template <class T>
void cross_entropy(T *logits, const int64_t *targets, float *losses, float scale, float cap, bool backward,
                   int64_t rows, int64_t width) {
  auto way = cap > 0.0f ? cross_entropy_of<T, true> : cross_entropy_of<T, false>;
  way(logits, targets, losses, scale, cap, backward, rows, width);
}

} // namespace
