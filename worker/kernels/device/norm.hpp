// RMSNorm (Zhang & Sennrich 2019, equation 4) with the addition of the residual stream, forward and backward.
#pragma once
#include "layer.hpp"

// sum = x + y where a y is given; normed = sum * rstd * w. Rows of h; a row is threads_x threads.
KERNEL(add_rms_norm)
(const T *x, const T *y, const float *w, float epsilon, T *sum, T *normed, float *rstd, I64 rows, I32 h) {
  I64 row = block_x() * threads_y() + thread_y();
  bool inside = row < rows;
  int packs = h / PACK;
  float v[NORM_PACKS][PACK];
  float squares = 0.0f;
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (!inside || i >= packs) continue;
    load(x + row * h + i * PACK, v[j]);
    if (y) {
      float more[PACK];
      load(y + row * h + i * PACK, more);
      UNROLL
      for (int k = 0; k < PACK; k++) v[j][k] = rounded(v[j][k] + more[k]);
      store(sum + row * h + i * PACK, v[j]);
    }
    UNROLL
    for (int k = 0; k < PACK; k++) squares += v[j][k] * v[j][k];
  }
  float scale = inverse_root(row_sum(squares) / float(h) + epsilon);
  if (!inside) return;
  if (thread_x() == 0) rstd[row] = scale;
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (i >= packs) continue;
    float weight[PACK];
    load(w + i * PACK, weight);
    UNROLL
    for (int k = 0; k < PACK; k++) v[j][k] *= scale * weight[k];
    store(normed + row * h + i * PACK, v[j]);
  }
}

// The rows of a block together: y = 0 adds up what the others found of each column, into the block's row of parts.
DEVICE void block_sums(const float (&dw)[NORM_PACKS][PACK], float *parts, I32 h) {
  SHARED float columns[THREADS_MAX * PACK];
  int packs = h / PACK;
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    sync();
    UNROLL
    for (int k = 0; k < PACK; k++) columns[(k * threads_y() + thread_y()) * threads_x() + thread_x()] = dw[j][k];
    sync();
    if (thread_y() != 0 || i >= packs) continue;
    float total[PACK];
    UNROLL
    for (int k = 0; k < PACK; k++) {
      total[k] = 0.0f;
      for (int y = 0; y < threads_y(); y++) total[k] += columns[(k * threads_y() + y) * threads_x() + thread_x()];
    }
    store(parts + block_x() * h + i * PACK, total);
  }
}

// dx = the gradient through the norm, added to `before` where that is given; normed, where given, becomes the norm's output again; parts [blocks, h] become
// the sums over a block's rows of the weight's gradient.
KERNEL(rms_norm_backward)
(const T *dn, const T *x, const float *rstd, const float *w, const T *before, T *dx, T *normed, float *parts, I64 rows,
 I32 h) {
  int packs = h / PACK;
  float weight[NORM_PACKS][PACK], dw[NORM_PACKS][PACK];
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (i < packs) load(w + i * PACK, weight[j]);
    UNROLL
    for (int k = 0; k < PACK; k++) dw[j][k] = 0.0f;
  }
  int turn = 0;
  for (I64 first = block_x() * threads_y(); first < rows; first += blocks_x() * threads_y(), turn++) {
    I64 row = first + thread_y();
    bool inside = row < rows;
    float scale = inside ? rstd[row] : 0.0f, dots = 0.0f;
    float g[NORM_PACKS][PACK], hat[NORM_PACKS][PACK];
    Packed<T> held[NORM_PACKS];
    UNROLL
    for (int j = 0; j < NORM_PACKS; j++) {
      int i = thread_x() + j * threads_x();
      if (!inside || i >= packs) continue;
      load(dn + row * h + i * PACK, g[j]);
      load(x + row * h + i * PACK, hat[j]);
      if (before) held[j] = *reinterpret_cast<const Packed<T> *>(before + row * h + i * PACK);
      UNROLL
      for (int k = 0; k < PACK; k++) {
        hat[j][k] *= scale;
        dw[j][k] += g[j][k] * hat[j][k];
        g[j][k] *= weight[j][k];
        dots += g[j][k] * hat[j][k];
      }
    }
    float mean = row_sum(dots, turn) / float(h);
    UNROLL
    for (int j = 0; j < NORM_PACKS; j++) {
      int i = thread_x() + j * threads_x();
      if (!inside || i >= packs) continue;
      float more[PACK];
      if (before) unpack(held[j], more);
      UNROLL
      for (int k = 0; k < PACK; k++) {
        g[j][k] = scale * (g[j][k] - hat[j][k] * mean);
        if (before) g[j][k] += more[k];
        hat[j][k] *= weight[j][k];
      }
      store(dx + row * h + i * PACK, g[j]);
      if (normed) store(normed + row * h + i * PACK, hat[j]);
    }
  }
  block_sums(dw, parts, h);
}

// Queries and keys in the rows of the projections are normed in place, in parts that each have a norm: `queries` of
// q_width and `keys` of k_width numbers, values of v_width behind them. hats [rows, without the values] keep them without
// the weight. A part is threads_x threads.
KERNEL(norm_heads)
(T *qkv, T *hats, const float *q, const float *k, float epsilon, float *rstd, I64 rows, I32 queries, I32 keys,
 I32 q_width, I32 k_width, I32 v_width) {
  int count = queries + keys, normed = queries * q_width + keys * k_width;
  I64 index = block_x() * threads_y() + thread_y(), row = index / count;
  int part = int(index % count);
  bool inside = row < rows, is_query = part < queries;
  int width = is_query ? q_width : k_width, packs = width / PACK;
  int from = is_query ? part * q_width : queries * q_width + (part - queries) * k_width;
  T *x = qkv + row * (normed + v_width) + from, *hat = hats + row * normed + from;
  const float *w = is_query ? q : k;
  float v[NORM_PACKS][PACK], squares = 0.0f;
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (!inside || i >= packs) continue;
    load(x + i * PACK, v[j]);
    UNROLL
    for (int n = 0; n < PACK; n++) squares += v[j][n] * v[j][n];
  }
  float scale = inverse_root(row_sum(squares) / float(width) + epsilon);
  if (!inside) return;
  if (thread_x() == 0) rstd[index] = scale;
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (i >= packs) continue;
    float weight[PACK];
    load(w + i * PACK, weight);
    UNROLL
    for (int n = 0; n < PACK; n++) v[j][n] *= scale;
    store(hat + i * PACK, v[j]);
    UNROLL
    for (int n = 0; n < PACK; n++) v[j][n] *= weight[n];
    store(x + i * PACK, v[j]);
  }
}

// In place: the gradient of `heads` normed parts of a row becomes that of what was normed; parts [blocks, width] become
// the sums over a block of the weight's gradient. The parts begin at `first`, their reciprocal roots at `first_rstd`;
// strides are from row to row.
KERNEL(norm_heads_backward)
(T *d, const T *hats, const float *rstd, const float *w, float *parts, I64 rows, I32 heads, I32 width, I64 first,
 I64 first_rstd, I64 stride, I64 stride_hats, I64 stride_rstd) {
  int packs = width / PACK;
  float weight[NORM_PACKS][PACK], dw[NORM_PACKS][PACK];
  UNROLL
  for (int j = 0; j < NORM_PACKS; j++) {
    int i = thread_x() + j * threads_x();
    if (i < packs) load(w + i * PACK, weight[j]);
    UNROLL
    for (int n = 0; n < PACK; n++) dw[j][n] = 0.0f;
  }
  int turn = 0;
  for (I64 begin = block_x() * threads_y(); begin < rows * heads; begin += blocks_x() * threads_y(), turn++) {
    I64 index = begin + thread_y(), row = index / heads, head = index % heads;
    bool inside = row < rows;
    T *at = d + first + row * stride + head * width;
    const T *kept = hats + first + row * stride_hats + head * width;
    float scale = inside ? rstd[first_rstd + row * stride_rstd + head] : 0.0f, dots = 0.0f;
    float g[NORM_PACKS][PACK], hat[NORM_PACKS][PACK];
    UNROLL
    for (int j = 0; j < NORM_PACKS; j++) {
      int i = thread_x() + j * threads_x();
      if (!inside || i >= packs) continue;
      load(at + i * PACK, g[j]);
      load(kept + i * PACK, hat[j]);
      UNROLL
      for (int n = 0; n < PACK; n++) {
        dw[j][n] += g[j][n] * hat[j][n];
        g[j][n] *= weight[j][n];
        dots += g[j][n] * hat[j][n];
      }
    }
    float mean = row_sum(dots, turn) / float(width);
    UNROLL
    for (int j = 0; j < NORM_PACKS; j++) {
      int i = thread_x() + j * threads_x();
      if (!inside || i >= packs) continue;
      UNROLL
      for (int n = 0; n < PACK; n++) g[j][n] = scale * (g[j][n] - hat[j][n] * mean);
      store(at + i * PACK, g[j]);
    }
  }
  block_sums(dw, parts, width);
}

// parts [blocks, width]: sums of a strip of rows; strips are blocks_x, columns in y. A bias's gradient begins here.
KERNEL(column_parts)(const T *x, float *parts, I64 rows, I32 width) {
  I64 first = rows * block_x() / blocks_x(), end = rows * (block_x() + 1) / blocks_x();
  I64 i = (block_y() * threads_x() + thread_x()) * PACK;
  if (i >= width) return;
  float total[PACK], more[PACK];
  UNROLL
  for (int k = 0; k < PACK; k++) total[k] = 0.0f;
  for (I64 row = first; row < end; row++) {
    load(x + row * width + i, more);
    UNROLL
    for (int k = 0; k < PACK; k++) total[k] += more[k];
  }
  store(parts + block_x() * width + i, total);
}

// out (+)= the sums of parts [slots, n, width] over n. Slot s, which is y of the grid, goes to s / of_block * stride + s %
// of_block * width: where the norms of a block and those of the next lie.
KERNEL(sum_parts)(const float *parts, float *out, I32 add, I32 n, I32 width, I32 of_block, I64 stride) {
  SHARED float columns[THREADS_MAX];
  I64 slot = block_y();
  I64 i = block_x() * threads_x() + thread_x();
  float total = 0.0f;
  if (i < width)
    for (int r = thread_y(); r < n; r += threads_y()) total += parts[(slot * n + r) * width + i];
  columns[thread_y() * threads_x() + thread_x()] = total;
  sync();
  if (thread_y() != 0 || i >= width) return;
  for (int y = 1; y < threads_y(); y++) total += columns[y * threads_x() + thread_x()];
  float *to = out + slot / of_block * stride + slot % of_block * width + i;
  *to = add ? *to + total : total;
}
