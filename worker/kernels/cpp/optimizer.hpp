// Gradients and AdamW over flat arenas.
#pragma once
#include "vector.hpp"
#include <vector>

namespace {

// Sums are taken over pieces of this many elements, whatever the number of threads: same bits everywhere.
constexpr int64_t PIECE = 65536;

template <class G> double sum_of_squares(const G *x, int64_t count) {
  int64_t pieces = (count + PIECE - 1) / PIECE;
  std::vector<double> sums(pieces, 0.0);
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < pieces; p++) {
    int64_t first = p * PIECE, n = count - first < PIECE ? count - first : PIECE;
    F total = {};
    each(n, [&](int64_t i, auto lanes) {
      F v = load(x + first + i, lanes);
      total = total + v * v;
    });
    double wide = 0;
    for (int i = 0; i < LANES; i++) wide += total[i];
    sums[p] = wide;
  }
  double all = 0;
  for (double s : sums) all += s;
  return all;
}

// to += from.
template <class S> void accumulate(const S *from, float *to, int64_t count) {
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < count; first += PIECE) {
    int64_t n = count - first < PIECE ? count - first : PIECE;
    each(n, [&](int64_t i, auto lanes) {
      store(to + first + i, load(to + first + i, lanes) + load(from + first + i, lanes), lanes);
    });
  }
}

struct AdamW {
  float rate, decay, beta1, beta2, epsilon, correction1, correction2, grad_scale;
};

// One step of PyTorch's order of operations; `copy`, where given, receives the weights in bf16.
template <class G>
void adamw(float *weights, const G *grads, float *first, float *second, bf16 *copy, int64_t count, AdamW a) {
#pragma omp parallel for schedule(static)
  for (int64_t start = 0; start < count; start += PIECE) {
    int64_t n = count - start < PIECE ? count - start : PIECE;
    each(n, [&](int64_t offset, auto lanes) {
      int64_t i = start + offset;
      F g = load(grads + i, lanes) * splat(a.grad_scale);
      F w = load(weights + i, lanes) * splat(1.0f - a.rate * a.decay);
      F m = load(first + i, lanes), v = load(second + i, lanes);
      m = m + (g - m) * splat(1.0f - a.beta1);
      v = v * splat(a.beta2) + g * g * splat(1.0f - a.beta2);
      F root = vsqrt(v);
      w = w - m / (root * splat(1.0f / a.correction2) + splat(a.epsilon)) * splat(a.rate / a.correction1);
      store(first + i, m, lanes);
      store(second + i, v, lanes);
      store(weights + i, w, lanes);
      if (copy) store(copy + i, w, lanes);
    });
  }
}

inline void to_bf16(const float *from, bf16 *to, int64_t count) {
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < count; first += PIECE) {
    int64_t n = count - first < PIECE ? count - first : PIECE;
    each(n, [&](int64_t i, auto lanes) { store(to + first + i, load(from + first + i, lanes), lanes); });
  }
}

} // namespace
