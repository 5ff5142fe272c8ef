// Rotary positions (Su et al. 2021, section 3.4.2, in the layout of transformers: a head's halves are the coordinates),
// in the rows of the projections [b*t, (n + 2g) * d], heads side by side.
#pragma once
#include "layer.hpp"

struct Heads {
  I64 b, t, n, g, d;
};

// Where the numbers of a head lie in a gradient that attention made, in numbers.
struct Strides {
  I64 b, t, head;
};

// Queries and keys turn in place; a bias, where there is one, is added to all three first.
KERNEL(rotate)(T *qkv, const float *bias, const float *cos, const float *sin, Heads s) {
  int half = int(s.d) / 2, packs = half / PACK;
  unsigned items = unsigned((s.n + s.g + (bias ? s.g : 0)) * packs);
  I64 index = thread_of_all(), row = index / items;
  if (row >= s.b * s.t) return;
  int item = int(index % items), head = item / packs, i = item % packs * PACK;
  T *at = qkv + row * (s.n + 2 * s.g) * s.d + head * s.d + i;
  float x[PACK], y[PACK];
  load(at, x);
  load(at + half, y);
  if (bias) {
    float more[PACK];
    load(bias + head * s.d + i, more);
    UNROLL
    for (int k = 0; k < PACK; k++) x[k] += more[k];
    load(bias + head * s.d + half + i, more);
    UNROLL
    for (int k = 0; k < PACK; k++) y[k] += more[k];
  }
  if (head < s.n + s.g) {
    float c[PACK], si[PACK];
    load(cos + row % s.t * half + i, c);
    load(sin + row % s.t * half + i, si);
    UNROLL
    for (int k = 0; k < PACK; k++) {
      float first = x[k] * c[k] - y[k] * si[k];
      y[k] = y[k] * c[k] + x[k] * si[k];
      x[k] = first;
    }
  }
  store(at, x);
  store(at + half, y);
}

// Gradients of queries, keys and values, [b, t, heads, d] in any order, to the gradient of the projections.
KERNEL(rotate_back)
(const T *dq, const T *dk, const T *dv, Strides of_q, Strides of_k, Strides of_v, const float *cos, const float *sin,
 T *dqkv, Heads s) {
  int half = int(s.d) / 2, packs = half / PACK;
  unsigned items = unsigned((s.n + 2 * s.g) * packs);
  I64 index = thread_of_all(), row = index / items;
  if (row >= s.b * s.t) return;
  int item = int(index % items), head = item / packs, i = item % packs * PACK;
  I64 b = row / s.t, t = row % s.t;
  bool turns = head < s.n + s.g;
  const T *from = dq + b * of_q.b + t * of_q.t + head * of_q.head;
  if (head >= s.n) from = dk + b * of_k.b + t * of_k.t + (head - s.n) * of_k.head;
  if (!turns) from = dv + b * of_v.b + t * of_v.t + (head - s.n - s.g) * of_v.head;
  T *to = dqkv + row * (s.n + 2 * s.g) * s.d + head * s.d + i;
  float x[PACK], y[PACK];
  load(from + i, x);
  load(from + half + i, y);
  if (turns) {
    float c[PACK], si[PACK];
    load(cos + t * half + i, c);
    load(sin + t * half + i, si);
    UNROLL
    for (int k = 0; k < PACK; k++) {
      float first = x[k] * c[k] + y[k] * si[k];
      y[k] = y[k] * c[k] - x[k] * si[k];
      x[k] = first;
    }
  }
  store(to, x);
  store(to + half, y);
}
