// Around the products of attention: rotary positions (Su et al. 2021), layouts, the causal softmax.
//
// Layouts: projections are rows of tokens [b*t, (n + 2g) * d], heads side by side. Attention works on
// queries [b, g, t, n/g, d], so that the queries of one key-value head are one matrix, and keys and values [b, g, t, d].
#pragma once
#include "vector.hpp"
#include <cmath>
#include <vector>

namespace {

struct Heads {
  int64_t b, t, n, g, d;
};

// One head: the two halves are the two coordinates; `sign` -1 turns back.
template <class T>
inline void rotate(const T *in, const float *bias, T *out, const float *cos, const float *sin, int64_t half, float sign) {
  each(half, [&](int64_t i, auto n) {
    F x = load(in + i, n), y = load(in + half + i, n);
    if (bias) {
      x = x + load(bias + i, n);
      y = y + load(bias + half + i, n);
    }
    F c = load(cos + i, n), s = load(sin + i, n) * splat(sign);
    store(out + i, x * c - y * s, n);
    store(out + half + i, y * c + x * s, n);
  });
}

// Projections to rotated queries and keys, and values; a bias, where there is one, is added on the way.
template <class T>
void split_heads(const T *qkv, const float *bias, const float *cos, const float *sin, T *q, T *k, T *v, Heads s) {
  int64_t rep = s.n / s.g, width = (s.n + 2 * s.g) * s.d, half = s.d / 2;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < s.b * s.t; row++) {
    int64_t b = row / s.t, t = row % s.t;
    const T *in = qkv + row * width;
    const float *c = cos + t * half, *si = sin + t * half;
    for (int64_t g = 0; g < s.g; g++) {
      int64_t place = (b * s.g + g) * s.t + t;
      for (int64_t j = 0; j < rep; j++) {
        int64_t from = (g * rep + j) * s.d;
        rotate(in + from, bias ? bias + from : nullptr, q + (place * rep + j) * s.d, c, si, half, 1.0f);
      }
      int64_t from = (s.n + g) * s.d;
      rotate(in + from, bias ? bias + from : nullptr, k + place * s.d, c, si, half, 1.0f);
      from = (s.n + s.g + g) * s.d;
      each(s.d, [&](int64_t i, auto n) {
        F x = load(in + from + i, n);
        store(v + place * s.d + i, bias ? x + load(bias + from + i, n) : x, n);
      });
    }
  }
}

// The way back for gradients.
template <class T>
void join_heads_backward(const T *dq, const T *dk, const T *dv, const float *cos, const float *sin, T *dqkv, Heads s) {
  int64_t rep = s.n / s.g, width = (s.n + 2 * s.g) * s.d, half = s.d / 2;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < s.b * s.t; row++) {
    int64_t b = row / s.t, t = row % s.t;
    T *out = dqkv + row * width;
    const float *c = cos + t * half, *si = sin + t * half;
    for (int64_t g = 0; g < s.g; g++) {
      int64_t place = (b * s.g + g) * s.t + t;
      for (int64_t j = 0; j < rep; j++)
        rotate(dq + (place * rep + j) * s.d, nullptr, out + (g * rep + j) * s.d, c, si, half, -1.0f);
      rotate(dk + place * s.d, nullptr, out + (s.n + g) * s.d, c, si, half, -1.0f);
      std::memcpy(out + (s.n + s.g + g) * s.d, dv + place * s.d, s.d * sizeof(T));
    }
  }
}

// [b, g, t, n/g, d] to rows of tokens [b*t, n*d].
template <class T> void join_heads(const T *in, T *out, Heads s) {
  int64_t piece = s.n / s.g * s.d;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < s.b * s.t; row++)
    for (int64_t g = 0; g < s.g; g++)
      std::memcpy(out + row * s.n * s.d + g * piece, in + ((row / s.t * s.g + g) * s.t + row % s.t) * piece,
                  piece * sizeof(T));
}

// Gradient rows [b*t, n*d] to [b, g, t, n/g, d]; delta is each head's dot product of output and gradient.
template <class T> void split_heads_backward(const T *dout, const T *out, T *dheads, float *delta, Heads s) {
  int64_t rep = s.n / s.g;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < s.b * s.t; row++)
    for (int64_t g = 0; g < s.g; g++)
      for (int64_t j = 0; j < rep; j++) {
        int64_t from = row * s.n * s.d + (g * rep + j) * s.d;
        int64_t place = ((row / s.t * s.g + g) * s.t + row % s.t) * rep + j;
        F dots = {};
        each(s.d, [&](int64_t i, auto n) {
          F grad = load(dout + from + i, n);
          dots = dots + grad * load(out + from + i, n);
          store(dheads + place * s.d + i, grad, n);
        });
        delta[place] = sum(dots);
      }
}

// Scores of some key-value heads' queries against the keys 0..columns.
struct Scores {
  int64_t pair_first, pairs; // of the b * g key-value heads
  int64_t token_first, tokens, columns;
  int64_t t, g, rep;
  const int32_t *document_first; // [b, t]: first token of each token's document; null: one document
};

template <class Body> inline void each_score_row(const Scores &s, Body body) {
  int64_t rows = s.tokens * s.rep;
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.pairs * rows; index++) {
    int64_t pair = s.pair_first + index / rows, token = s.token_first + index % rows / s.rep;
    int64_t first = s.document_first ? s.document_first[pair / s.g * s.t + token] : 0;
    int64_t place = (pair * s.t + s.token_first) * s.rep + index % rows; // in [b, g, t, n/g]
    body(index * s.columns, place, first, token + 1);
  }
}

template <class T> inline void zero(T *p, int64_t from, int64_t to) {
  if (to > from) std::memset((void *)(p + from), 0, (to - from) * sizeof(T));
}

// scores := softmax(scale * scores) over the keys [first, token]; lse is kept for the way back. CAPPED: of cap *
// tanh(scale * scores / cap).
template <class T, bool CAPPED> void softmax_forward_of(T *scores, float *lse, float scale, float cap, Scores s) {
  each_score_row(s, [&](int64_t offset, int64_t place, int64_t first, int64_t end) {
    static thread_local std::vector<float> scratch;
    if (int64_t(scratch.size()) < s.columns) scratch.resize(s.columns);
    T *row = scores + offset;
    float *e = scratch.data();
    F most = splat(-INFINITY), total = {};
    each(end - first, [&](int64_t i, auto n) {
      F v = load(row + first + i, n) * splat(scale);
      if (CAPPED) v = capped(v, cap);
      store(e + i, v, n);
      most = vmax(most, only(v, n, -INFINITY));
    });
    float top = largest(most);
    each(end - first, [&](int64_t i, auto n) {
      F v = vexp(load(e + i, n) - splat(top));
      store(e + i, v, n);
      total = total + only(v, n, 0.0f);
    });
    float all = sum(total);
    F share = splat(1.0f / all);
    lse[place] = top + std::log(all);
    zero(row, 0, first);
    each(end - first, [&](int64_t i, auto n) { store(row + first + i, load(e + i, n) * share, n); });
    zero(row, end, s.columns);
  });
}

// scores := the probabilities again; dp := the gradient of the scores before the softmax.
template <class T, bool CAPPED>
void softmax_backward_of(T *scores, T *dp, const float *lse, const float *delta, float scale, float cap, Scores s) {
  each_score_row(s, [&](int64_t offset, int64_t place, int64_t first, int64_t end) {
    T *row = scores + offset, *grad = dp + offset;
    F log_total = splat(lse[place]), own = splat(delta[place]);
    zero(row, 0, first);
    zero(grad, 0, first);
    each(end - first, [&](int64_t i, auto n) {
      F v = load(row + first + i, n) * splat(scale);
      if (CAPPED) v = capped(v, cap);
      F p = vexp(v - log_total), g = p * (load(grad + first + i, n) - own) * splat(scale);
      if (CAPPED) g = g * cap_slope(v, cap);
      store(grad + first + i, g, n);
      store(row + first + i, p, n);
    });
    zero(row, end, s.columns);
    zero(grad, end, s.columns);
  });
}

// `cap` 0 is none.
template <class T> void softmax_forward(T *scores, float *lse, float scale, float cap, Scores s) {
  auto way = cap > 0.0f ? softmax_forward_of<T, true> : softmax_forward_of<T, false>;
  way(scores, lse, scale, cap, s);
}
template <class T>
void softmax_backward(T *scores, T *dp, const float *lse, const float *delta, float scale, float cap, Scores s) {
  auto way = cap > 0.0f ? softmax_backward_of<T, true> : softmax_backward_of<T, false>;
  way(scores, dp, lse, delta, scale, cap, s);
}

} // namespace
