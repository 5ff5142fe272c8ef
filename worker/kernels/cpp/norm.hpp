// RMSNorm (Zhang & Sennrich 2019) with the addition of the residual stream, forward and backward.
#pragma once
#include "vector.hpp"
#include <cmath>
#include <vector>

namespace {

// Weight gradients are summed over this many strips of rows, whatever the number of threads: same bits everywhere.
constexpr int64_t STRIPS = 16;

// x += y where y is given (into sum_out); normed = x * rstd * w. Rows of h.
template <class T>
void add_rms_norm(const T *x, const T *y, const float *w, float eps, T *sum_out, T *normed, float *rstd, int64_t rows,
                  int64_t h) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const T *xr = x + r * h, *yr = y ? y + r * h : nullptr;
    T *sr = y ? sum_out + r * h : nullptr, *nr = normed + r * h;
    F squares = {};
    each(h, [&](int64_t i, auto n) {
      F v = load(xr + i, n);
      if (yr) {
        v = v + load(yr + i, n);
        store(sr + i, v, n);
      }
      squares = squares + v * v;
    });
    float scale = 1.0f / std::sqrt(sum(squares) / float(h) + eps);
    rstd[r] = scale;
    const T *from = yr ? sr : xr;
    each(h, [&](int64_t i, auto n) { store(nr + i, load(from + i, n) * splat(scale) * load(w + i, n), n); });
  }
}

// normed again, from what the forward pass kept.
template <class T> void rms_norm_again(const T *x, const float *rstd, const float *w, T *normed, int64_t rows, int64_t h) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    F scale = splat(rstd[r]);
    each(h, [&](int64_t i, auto n) {
      store(normed + r * h + i, load(x + r * h + i, n) * scale * load(w + i, n), n);
    });
  }
}

// dx (+)= the gradient through the norm; dw (+)= its weight's gradient.
template <class T>
void rms_norm_backward(const T *dn, const T *x, const float *rstd, const float *w, T *dx, bool add_dx, float *dw,
                       bool add_dw, int64_t rows, int64_t h) {
  std::vector<float> strips(STRIPS * h, 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t s = 0; s < STRIPS; s++) {
    float *strip = strips.data() + s * h;
    for (int64_t r = rows * s / STRIPS; r < rows * (s + 1) / STRIPS; r++) {
      const T *dr = dn + r * h, *xr = x + r * h;
      T *out = dx + r * h;
      F scale = splat(rstd[r]), dots = {};
      each(h, [&](int64_t i, auto n) {
        F g = load(dr + i, n), hat = load(xr + i, n) * scale;
        store(strip + i, load(strip + i, n) + g * hat, n);
        dots = dots + g * load(w + i, n) * hat;
      });
      F mean = splat(sum(dots) / float(h));
      each(h, [&](int64_t i, auto n) {
        F hat = load(xr + i, n) * scale;
        F g = scale * (load(dr + i, n) * load(w + i, n) - hat * mean);
        store(out + i, add_dx ? load(out + i, n) + g : g, n);
      });
    }
  }
  for (int64_t i = 0; i < h; i++) {
    float total = add_dw ? dw[i] : 0.0f;
    for (int64_t s = 0; s < STRIPS; s++) total += strips[s * h + i];
    dw[i] = total;
  }
}

// Parts of rows that are normed each for itself: `heads` of `width` numbers side by side. Strides are from row to row, in
// numbers.
struct Parts {
  int64_t rows, heads, width, stride, stride_hats, stride_rstd;
};

// In place: x becomes x * rstd * w; hats keep x * rstd for the way back.
template <class T> void norm_parts(T *x, T *hats, float *rstd, const float *w, float eps, Parts p) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < p.rows; r++)
    for (int64_t j = 0; j < p.heads; j++) {
      T *xr = x + r * p.stride + j * p.width, *hr = hats + r * p.stride_hats + j * p.width;
      F squares = {};
      each(p.width, [&](int64_t i, auto n) {
        F v = load(xr + i, n);
        squares = squares + v * v;
      });
      float scale = 1.0f / std::sqrt(sum(squares) / float(p.width) + eps);
      rstd[r * p.stride_rstd + j] = scale;
      each(p.width, [&](int64_t i, auto n) {
        F hat = load(xr + i, n) * splat(scale);
        store(hr + i, hat, n);
        store(xr + i, hat * load(w + i, n), n);
      });
    }
}

// In place: d becomes the gradient through the norm; dw (+)= its weight's.
template <class T>
void norm_parts_backward(T *d, const T *hats, const float *rstd, const float *w, float *dw, bool add_dw, Parts p) {
  std::vector<float> strips(STRIPS * p.width, 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t s = 0; s < STRIPS; s++) {
    float *strip = strips.data() + s * p.width;
    for (int64_t r = p.rows * s / STRIPS; r < p.rows * (s + 1) / STRIPS; r++)
      for (int64_t j = 0; j < p.heads; j++) {
        T *dr = d + r * p.stride + j * p.width;
        const T *hr = hats + r * p.stride_hats + j * p.width;
        F scale = splat(rstd[r * p.stride_rstd + j]), dots = {};
        each(p.width, [&](int64_t i, auto n) {
          F g = load(dr + i, n), hat = load(hr + i, n);
          store(strip + i, load(strip + i, n) + g * hat, n);
          dots = dots + g * load(w + i, n) * hat;
        });
        F mean = splat(sum(dots) / float(p.width));
        each(p.width, [&](int64_t i, auto n) {
          store(dr + i, scale * (load(dr + i, n) * load(w + i, n) - load(hr + i, n) * mean), n);
        });
      }
  }
  for (int64_t i = 0; i < p.width; i++) {
    float total = add_dw ? dw[i] : 0.0f;
    for (int64_t s = 0; s < STRIPS; s++) total += strips[s * p.width + i];
    dw[i] = total;
  }
}

// out (+)= the sum of the rows: the gradient of a bias.
template <class T> void column_sums(const T *x, float *out, bool add, int64_t rows, int64_t width) {
  std::vector<float> strips(STRIPS * width, 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t s = 0; s < STRIPS; s++) {
    float *strip = strips.data() + s * width;
    for (int64_t r = rows * s / STRIPS; r < rows * (s + 1) / STRIPS; r++)
      each(width, [&](int64_t i, auto n) { store(strip + i, load(strip + i, n) + load(x + r * width + i, n), n); });
  }
  for (int64_t i = 0; i < width; i++) {
    float total = add ? out[i] : 0.0f;
    for (int64_t s = 0; s < STRIPS; s++) total += strips[s * width + i];
    out[i] = total;
  }
}

} // namespace
