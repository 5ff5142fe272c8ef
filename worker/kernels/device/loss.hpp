// Gated activation, embedding, cross-entropy.
#pragma once
#include "layer.hpp"

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// What a gate becomes, and its slope.
struct Silu {
  DEVICE_CALL static void at(float x, float &value, float &slope) {
    float s = sigmoid(x);
    value = x * s;
    slope = s + value * (1.0f - s);
  }
};
// GELU by its approximation with a hyperbolic tangent (Hendrycks & Gimpel 2016): (1 + tanh u) / 2 = sigmoid(2 u).
struct GeluTanh {
  DEVICE_CALL static void at(float x, float &value, float &slope) {
    const float twice = 1.5957691216f, cubed = 0.044715f; // 2 * sqrt(2 / pi)
    float s = sigmoid(twice * (x + cubed * x * x * x));
    value = x * s;
    slope = s + value * (1.0f - s) * twice * (1.0f + 3.0f * cubed * x * x);
  }
};

// A gated unit (Shazeer 2020): gate and up side by side [rows, 2 * width] to gate' * up [rows, width].
template <class Gate> DEVICE void gated(const T *gate_up, T *out, I64 rows, I32 width) {
  unsigned packs = unsigned(width / PACK);
  I64 index = thread_of_all(), row = index / packs;
  if (row >= rows) return;
  int i = int(index % packs) * PACK;
  float g[PACK], u[PACK];
  load(gate_up + row * 2 * width + i, g);
  load(gate_up + row * 2 * width + width + i, u);
  UNROLL
  for (int k = 0; k < PACK; k++) {
    float value, slope;
    Gate::at(g[k], value, slope);
    g[k] = value * u[k];
  }
  store(out + row * width + i, g);
}

// In place: gate_up becomes its gradient, d_out becomes the forward value, which the next product needs.
template <class Gate> DEVICE void gated_backward(T *gate_up, T *d_out, I64 rows, I32 width) {
  unsigned packs = unsigned(width / PACK);
  I64 index = thread_of_all(), row = index / packs;
  if (row >= rows) return;
  int i = int(index % packs) * PACK;
  T *gate = gate_up + row * 2 * width + i, *up = gate + width, *out = d_out + row * width + i;
  float g[PACK], u[PACK], d[PACK];
  load(gate, g);
  load(up, u);
  load(out, d);
  UNROLL
  for (int k = 0; k < PACK; k++) {
    float value, slope, grad = d[k];
    Gate::at(g[k], value, slope);
    d[k] = value * u[k];
    g[k] = grad * u[k] * slope;
    u[k] = grad * value;
  }
  store(gate, g);
  store(up, u);
  store(out, d);
}

KERNEL(swiglu)(const T *gate_up, T *out, I64 rows, I32 width) { gated<Silu>(gate_up, out, rows, width); }
KERNEL(swiglu_backward)(T *gate_up, T *d_out, I64 rows, I32 width) { gated_backward<Silu>(gate_up, d_out, rows, width); }
KERNEL(geglu)(const T *gate_up, T *out, I64 rows, I32 width) { gated<GeluTanh>(gate_up, out, rows, width); }
KERNEL(geglu_backward)(T *gate_up, T *d_out, I64 rows, I32 width) {
  gated_backward<GeluTanh>(gate_up, d_out, rows, width);
}

KERNEL(embed)(const T *table, const I32 *tokens, T *out, I64 rows, I32 h) {
  unsigned packs = unsigned(h / PACK);
  I64 index = thread_of_all(), row = index / packs;
  if (row >= rows) return;
  int i = int(index % packs) * PACK;
  float v[PACK];
  load(table + I64(tokens[row]) * h + i, v);
  store(out + row * h + i, v);
}

// Runs of equal tokens are added in pieces of at most this many rows: a frequent token has many of them.
constexpr int PIECE = 32;

// Where the piece that begins at p ends, in sorted tokens.
DEVICE I64 piece_end(const I32 *sorted, I64 p, I64 rows) {
  I64 end = p + 1;
  while (end < rows && end % PIECE && sorted[end] == sorted[p]) end++;
  return end;
}
template <class G> DEVICE void add_to(G *to, float (&more)[PACK]) {
  float before[PACK];
  load(to, before);
  UNROLL
  for (int k = 0; k < PACK; k++) more[k] += before[k];
  store(to, more);
}

// The gradient of the table, first half: dx [rows, h] summed over each piece of equal tokens, in the order of the batch.
// A run of one piece is added to the table's gradient, the pieces of longer ones go to parts [rows, h]. `order` says
// where the sorted tokens came from; `wide` that grad is fp32.
KERNEL(embed_backward)
(const T *dx, const I32 *sorted, const I64 *order, void *grad, I32 wide, float *parts, I64 rows, I32 h) {
  I64 p = block_x(), token = sorted[p];
  bool begins = p == 0 || sorted[p - 1] != token;
  if (!begins && p % PIECE) return;
  I64 end = piece_end(sorted, p, rows);
  bool whole = begins && (end == rows || sorted[end] != token);
  for (int i = thread_x() * PACK; i < h; i += threads_x() * PACK) {
    float total[PACK], more[PACK];
    load(dx + order[p] * h + i, total);
    for (I64 q = p + 1; q < end; q++) {
      load(dx + order[q] * h + i, more);
      UNROLL
      for (int k = 0; k < PACK; k++) total[k] += more[k];
    }
    if (!whole)
      store(parts + p * h + i, total);
    else if (wide)
      add_to(static_cast<float *>(grad) + token * h + i, total);
    else
      add_to(static_cast<T *>(grad) + token * h + i, total);
  }
}

// Second half: the pieces of long runs together.
KERNEL(embed_backward_runs)
(const I32 *sorted, void *grad, I32 wide, const float *parts, I64 rows, I32 h) {
  I64 p = block_x(), token = sorted[p];
  if (p != 0 && sorted[p - 1] == token) return;
  I64 next = piece_end(sorted, p, rows);
  if (next == rows || sorted[next] != token) return;
  for (int i = thread_x() * PACK; i < h; i += threads_x() * PACK) {
    float total[PACK], more[PACK];
    load(parts + p * h + i, total);
    for (I64 q = next; q < rows && sorted[q] == token; q += PIECE) {
      load(parts + q * h + i, more);
      UNROLL
      for (int k = 0; k < PACK; k++) total[k] += more[k];
    }
    if (wide)
      add_to(static_cast<float *>(grad) + token * h + i, total);
    else
      add_to(static_cast<T *>(grad) + token * h + i, total);
  }
}

// Packs of a row of logits that a thread keeps in registers between the two looks at them; the rest is read again, out
// of the cache.
constexpr int LOGIT_PACKS = 4;

// losses := -log softmax(logits)[target], nats, 0 where the target is negative; logits become their gradient times
// scale. A block is a row. The maximum runs along with the sum (Milakov & Gimelshein 2018, algorithm 3).
KERNEL(cross_entropy)(T *logits, const I32 *targets, float *losses, float scale, I32 width) {
  I64 index = block_x();
  T *row = logits + index * width;
  int target = targets[index], packs = width / PACK;
  float v[PACK];
  if (target < 0) {
    UNROLL
    for (int k = 0; k < PACK; k++) v[k] = 0.0f;
    for (int i = thread_x(); i < packs; i += threads_x()) store(row + i * PACK, v);
    if (thread_x() == 0) losses[index] = 0.0f;
    return;
  }
  Packed<T> kept[LOGIT_PACKS];
  UNROLL
  for (int j = 0; j < LOGIT_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (i < packs) kept[j] = reinterpret_cast<const Packed<T> *>(row)[i];
  }
  float most = MINUS_INFINITY, total = 0.0f;
  auto see = [&]() {
    float top = most, sum = 0.0f;
    UNROLL
    for (int k = 0; k < PACK; k++) top = largest_of(top, v[k]);
    UNROLL
    for (int k = 0; k < PACK; k++) sum += fast_exp(v[k] - top);
    total = (most == MINUS_INFINITY ? 0.0f : total * fast_exp(most - top)) + sum;
    most = top;
  };
  UNROLL
  for (int j = 0; j < LOGIT_PACKS; j++) {
    if (thread_x() + j * threads_x() >= packs) continue;
    unpack(kept[j], v);
    see();
  }
  for (int i = thread_x() + LOGIT_PACKS * threads_x(); i < packs; i += threads_x()) {
    load(row + i * PACK, v);
    see();
  }
  float top = row_largest(most);
  float all = row_sum(most == MINUS_INFINITY ? 0.0f : total * fast_exp(most - top));
  if (thread_x() == 0) losses[index] = top + natural_log(all) - to_float(row[target]);
  float share = scale / all;
  // The target's logit was read by thread 0; nobody writes before.
  sync();
  auto write = [&](int i) {
    UNROLL
    for (int k = 0; k < PACK; k++) v[k] = fast_exp(v[k] - top) * share - (i * PACK + k == target ? scale : 0.0f);
    store(row + i * PACK, v);
  };
  UNROLL
  for (int j = 0; j < LOGIT_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (i >= packs) continue;
    unpack(kept[j], v);
    write(i);
  }
  for (int i = thread_x() + LOGIT_PACKS * threads_x(); i < packs; i += threads_x()) {
    load(row + i * PACK, v);
    write(i);
  }
}
