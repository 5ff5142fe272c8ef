// Gradients and AdamW over flat arenas.
#pragma once
#include "layer.hpp"

// fp32 numbers that a thread takes at once: 16 bytes, so that a warp's accesses lie without gaps.
constexpr int FEW = PACK < 4 ? PACK : 4;

// body(i) for every few of count numbers, rest(i) for each number behind the last whole few; grid-stride.
template <class Body, class Rest> DEVICE void each(I64 count, Body body, Rest rest) {
  I64 step = blocks_x() * threads_x(), packs = count / FEW;
  for (I64 i = thread_of_all(); i < packs; i += step) body(i * FEW);
  for (I64 i = packs * FEW + thread_of_all(); i < count; i += step) rest(i);
}

// parts [blocks] := sums of squares of what each block saw.
template <class G> DEVICE void squares_of(const G *x, double *parts, I64 count) {
  float total = 0.0f;
  double all = 0.0;
  each(
      count,
      [&](I64 i) {
        float v[FEW], sum = 0.0f;
        load(x + i, v);
        UNROLL
        for (int k = 0; k < FEW; k++) sum += v[k] * v[k];
        total += sum;
      },
      [&](I64 i) { total += to_float(x[i]) * to_float(x[i]); });
  all = row_sum(double(total));
  if (thread_x() == 0) parts[block_x()] = all;
}
KERNEL(squares)(const T *x, double *parts, I64 count) { squares_of(x, parts, count); }
KERNEL(squares_wide)(const float *x, double *parts, I64 count) { squares_of(x, parts, count); }

// out[0] := the sum of the losses, out[1] := the sum of parts: what the host reads of a step. One block.
KERNEL(finish)(const float *losses, I64 count, const double *parts, I64 n, double *out) {
  double loss = 0.0, squares = 0.0;
  for (I64 i = thread_x(); i < count; i += threads_x()) loss += double(losses[i]);
  for (I64 i = thread_x(); i < n; i += threads_x()) squares += parts[i];
  loss = row_sum(loss);
  squares = row_sum(squares);
  if (thread_x() == 0) {
    out[0] = loss;
    out[1] = squares;
  }
}

// to += from.
KERNEL(accumulate)(const T *from, float *to, I64 count) {
  each(
      count,
      [&](I64 i) {
        float a[FEW], b[FEW];
        load(from + i, a);
        load(to + i, b);
        UNROLL
        for (int k = 0; k < FEW; k++) a[k] += b[k];
        store(to + i, a);
      },
      [&](I64 i) { to[i] += to_float(from[i]); });
}

struct AdamW {
  float rate, decay, beta1, beta2, epsilon, correction1, correction2, grad_scale;
};

DEVICE void adamw_one(float &w, float g, float &m, float &v, const AdamW &a) {
  g *= a.grad_scale;
  w *= 1.0f - a.rate * a.decay;
  m += (g - m) * (1.0f - a.beta1);
  v = v * a.beta2 + g * g * (1.0f - a.beta2);
  w -= m / (root(v) * (1.0f / a.correction2) + a.epsilon) * (a.rate / a.correction1);
}

// One step of PyTorch's order of operations; copy, where given, receives the weights in bf16.
template <class G>
DEVICE void adamw_of(float *weights, const G *grads, float *first, float *second, bf16 *copy, I64 count, const AdamW &a) {
  each(
      count,
      [&](I64 i) {
        float w[FEW], g[FEW], m[FEW], v[FEW];
        load(weights + i, w);
        load(grads + i, g);
        load(first + i, m);
        load(second + i, v);
        UNROLL
        for (int k = 0; k < FEW; k++) adamw_one(w[k], g[k], m[k], v[k], a);
        store(weights + i, w);
        store(first + i, m);
        store(second + i, v);
        if (copy) store(copy + i, w);
      },
      [&](I64 i) {
        adamw_one(weights[i], to_float(grads[i]), first[i], second[i], a);
        if (copy) from_float(copy[i], weights[i]);
      });
}
KERNEL(adamw)(float *weights, const T *grads, float *first, float *second, bf16 *copy, I64 count, AdamW a) {
  adamw_of(weights, grads, first, second, copy, count, a);
}
KERNEL(adamw_wide)(float *weights, const float *grads, float *first, float *second, bf16 *copy, I64 count, AdamW a) {
  adamw_of(weights, grads, first, second, copy, count, a);
}
