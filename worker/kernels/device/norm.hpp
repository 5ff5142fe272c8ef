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

// dx = the gradient through the norm, added to `before` where that is given; normed, where given, becomes the norm's output again; parts [blocks, h] become
// the sums over a block's rows of the weight's gradient.
KERNEL(rms_norm_backward)
(const T *dn, const T *x, const float *rstd, const float *w, const T *before, T *dx, T *normed, float *parts, I64 rows,
 I32 h) {
  SHARED float columns[THREADS_MAX * PACK];
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
  // The rows of a block together: y = 0 adds up what the others found.
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

// out (+)= the sums of parts [slots, n, width] over n. Slot s, which is y of the grid, goes to s / 2 * stride + s % 2 *
// width: where two norms of a block and those of the next lie.
KERNEL(sum_parts)(const float *parts, float *out, I32 add, I32 n, I32 width, I64 stride) {
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
  float *to = out + slot / 2 * stride + slot % 2 * width + i;
  *to = add ? *to + total : total;
}
