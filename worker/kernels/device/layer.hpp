// A thin layer over a GPU's kernels: the same bodies are compiled by NVRTC for a card, and by g++ for tests.
//
// Set from outside: NUMBER_BF16 (0 or 1), PACK (numbers that a thread takes at once: 8, or 1 where a width is odd) and
// NORM_PACKS (packs of one thread in a row of a norm, at most). A block is x by y threads. On a CPU each of them is a
// thread of the system, so a barrier that is missing is missed there too.
#pragma once

typedef long long I64;
typedef int I32;

struct bf16 {
  unsigned short bits;
};
#if NUMBER_BF16
typedef bf16 T;
#else
typedef float T;
#endif

constexpr int THREADS_MAX = 512;

#if defined(__CUDACC_RTC__)

#define KERNEL(name) extern "C" __global__ void __launch_bounds__(THREADS_MAX) name
#define DEVICE static __device__ __forceinline__
#define DEVICE_CALL __device__ __forceinline__
#define SHARED __shared__
#define UNROLL _Pragma("unroll")

DEVICE void sync() { __syncthreads(); }
DEVICE int thread_x() { return threadIdx.x; }
DEVICE int thread_y() { return threadIdx.y; }
DEVICE int threads_x() { return blockDim.x; }
DEVICE int threads_y() { return blockDim.y; }
DEVICE I64 block_x() { return blockIdx.x; }
DEVICE I64 block_y() { return blockIdx.y; }
DEVICE I64 blocks_x() { return gridDim.x; }

DEVICE float fast_exp(float x) { return __expf(x); }
DEVICE float natural_log(float x) { return logf(x); }
DEVICE float inverse_root(float x) { return rsqrtf(x); }
DEVICE float root(float x) { return sqrtf(x); }
DEVICE float largest_of(float a, float b) { return fmaxf(a, b); }
DEVICE float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
DEVICE void from_float(bf16 &to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#define MINUS_INFINITY __int_as_float(0xff800000)

// Over the threads x of one y; all threads of a block call it. x is a multiple of 32, a warp never has two y. In a loop
// `turn` counts: two turns use different memory, so one barrier each is enough.
template <class V, class Join> DEVICE V over_row(V value, Join join, int turn) {
  UNROLL
  for (int offset = 16; offset; offset >>= 1) value = join(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (blockDim.x <= 32) return value;
  __shared__ V parts[2 * THREADS_MAX / 32];
  int warps = blockDim.x >> 5;
  V *row = parts + (turn & 1) * (THREADS_MAX / 32) + threadIdx.y * warps;
  if (turn < 0) __syncthreads();
  if ((threadIdx.x & 31) == 0) row[threadIdx.x >> 5] = value;
  __syncthreads();
  value = row[0];
  for (int i = 1; i < warps; i++) value = join(value, row[i]);
  return value;
}

#else

#include <cmath>
#include <cstdint>
#include <cstring>
#include <pthread.h>

#define KERNEL(name) static void name
#define DEVICE static inline
#define DEVICE_CALL inline
#define SHARED static
#define UNROLL

struct Place {
  int thread_x, thread_y, threads_x, threads_y;
  I64 block_x, block_y, blocks_x;
};
static thread_local Place place;
static pthread_barrier_t barrier;

DEVICE void sync() { pthread_barrier_wait(&barrier); }
DEVICE int thread_x() { return place.thread_x; }
DEVICE int thread_y() { return place.thread_y; }
DEVICE int threads_x() { return place.threads_x; }
DEVICE int threads_y() { return place.threads_y; }
DEVICE I64 block_x() { return place.block_x; }
DEVICE I64 block_y() { return place.block_y; }
DEVICE I64 blocks_x() { return place.blocks_x; }

DEVICE float fast_exp(float x) { return std::exp(x); }
DEVICE float natural_log(float x) { return std::log(x); }
DEVICE float inverse_root(float x) { return 1.0f / std::sqrt(x); }
DEVICE float root(float x) { return std::sqrt(x); }
DEVICE float largest_of(float a, float b) { return a > b ? a : b; }
DEVICE float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
DEVICE void from_float(bf16 &to, float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  to.bits = x == x ? uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16) : uint16_t(0x7fff);
}
#define MINUS_INFINITY (-INFINITY)

template <class V, class Join> DEVICE V over_row(V value, Join join, int) {
  static V parts[THREADS_MAX];
  V *row = parts + thread_y() * threads_x();
  sync();
  row[thread_x()] = value;
  sync();
  value = row[0];
  for (int i = 1; i < threads_x(); i++) value = join(value, row[i]);
  return value;
}

#endif

DEVICE float to_float(float x) { return x; }
DEVICE void from_float(float &to, float x) { to = x; }

struct Plus {
  template <class V> DEVICE_CALL V operator()(V a, V b) const { return a + b; }
};
struct Largest {
  template <class V> DEVICE_CALL V operator()(V a, V b) const { return a > b ? a : b; }
};

template <class V> DEVICE V row_sum(V value, int turn = -1) { return over_row(value, Plus(), turn); }
DEVICE float row_largest(float value) { return over_row(value, Largest(), -1); }

// Numbers that lie together: one access of 8 or 16 bytes, or two of 16.
template <class E, int N = PACK> struct alignas(N * sizeof(E) < 16 ? N * sizeof(E) : 16) Packed {
  E v[N];
};
template <class E, int N> DEVICE void unpack(const Packed<E, N> &packed, float (&to)[N]) {
  UNROLL
  for (int k = 0; k < N; k++) to[k] = to_float(packed.v[k]);
}
template <class E, int N> DEVICE void load(const E *from, float (&to)[N]) {
  unpack(*reinterpret_cast<const Packed<E, N> *>(from), to);
}
template <class E, int N> DEVICE void store(E *to, const float (&from)[N]) {
  Packed<E, N> packed;
  UNROLL
  for (int k = 0; k < N; k++) from_float(packed.v[k], from[k]);
  *reinterpret_cast<Packed<E, N> *>(to) = packed;
}
// What is left of a number when it is kept as a T.
DEVICE float rounded(float x) {
  T kept;
  from_float(kept, x);
  return to_float(kept);
}
// Number of this thread among all of a launch in one dimension.
DEVICE I64 thread_of_all() { return block_x() * threads_x() + thread_x(); }
