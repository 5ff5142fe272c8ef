// Sixteen floats at a time, on any machine: GCC's vector types become AVX-512, two AVX or four SSE registers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

constexpr int64_t LANES = 16;

// bfloat16: the upper half of a float.
struct bf16 {
  uint16_t bits;
};

inline F splat(float x) { return x - F{}; }

inline F load(const float *p) {
  F v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline F load(const bf16 *p) {
  H h;
  std::memcpy(&h, p, sizeof h);
  U u = __builtin_convertvector(h, U) << 16;
  return (F)u;
}
inline void store(float *p, F v) { std::memcpy(p, &v, sizeof v); }
// To the nearest, ties to even; canonical NaNs stay NaNs.
inline void store(bf16 *p, F v) {
  U u = (U)v;
  u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  H h = __builtin_convertvector(u, H);
  std::memcpy(p, &h, sizeof h);
}

// How many lanes take part: all of them, known to the compiler, or the first n at the end of a row.
struct Whole {};
template <class T> inline F load(const T *p, Whole) { return load(p); }
template <class T> inline void store(T *p, F v, Whole) { store(p, v); }
template <class T> inline F load(const T *p, int64_t n) {
  T part[LANES] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load(part);
}
template <class T> inline void store(T *p, F v, int64_t n) {
  T part[LANES];
  store(part, v);
  std::memcpy(p, part, n * sizeof(T));
}
// Lanes that take part keep their value, the others become `other`.
inline F only(F v, Whole, float) { return v; }
inline F only(F v, int64_t n, float other) {
  for (int64_t i = n; i < LANES; i++) v[i] = other;
  return v;
}

// body(offset, lanes) over a row of n: a body is written once and compiled for whole vectors and for the last part.
template <class Body> inline void each(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) body(i, Whole{});
  if (i < n) body(i, n - i);
}

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
inline void from_float(float *p, float x) { *p = x; }
inline void from_float(bf16 *p, float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  p->bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline F vmax(F a, F b) { return a > b ? a : b; }
inline F vmin(F a, F b) { return a < b ? a : b; }

inline float sum(F v) {
  float s = 0;
  for (int i = 0; i < LANES; i++) s += v[i];
  return s;
}
inline float largest(F v) {
  float m = v[0];
  for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
  return m;
}

inline F vsqrt(F v) {
  float part[LANES];
  store(part, v);
  for (int i = 0; i < LANES; i++) part[i] = std::sqrt(part[i]);
  return load(part);
}

// e^x to 2 ulp for x <= 88; below -87 it is 0 for all purposes here. NaN stays NaN.
inline F vexp(F x) {
  F limited = vmax(vmin(x, splat(88.0f)), splat(-87.0f));
  const F magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer in the low bits
  F shifted = limited * splat(1.44269504f) + magic;
  F n = shifted - magic;
  F r = limited - n * splat(0.693359375f);
  r = r + n * splat(2.12194440e-4f);
  F p = splat(1.0f / 720.0f);
  p = p * r + splat(1.0f / 120.0f);
  p = p * r + splat(1.0f / 24.0f);
  p = p * r + splat(1.0f / 6.0f);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  F y = (F)(((U)shifted << 23) + (U)p);
  return x == x ? y : x;
}

inline F sigmoid(F x) { return splat(1.0f) / (splat(1.0f) + vexp(-x)); }

// cap * tanh(x / cap), and the slope of that where it has this value. Of small x the series: the quotient would cancel.
inline F capped(F x, float cap) {
  F u = x / splat(cap), square = u * u;
  F near = u * (splat(1.0f) - square * (splat(1.0f / 3.0f) - square * splat(2.0f / 15.0f)));
  F far = splat(2.0f) * sigmoid(u + u) - splat(1.0f);
  return splat(cap) * (square < splat(0.01f) ? near : far);
}
inline F cap_slope(F value, float cap) {
  F share = value / splat(cap);
  return splat(1.0f) - share * share;
}

} // namespace
