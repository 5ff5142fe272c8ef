// The table of kernels of one level of the instruction set. The order is that of `Table` in src/lib.rs.
#include "attention.hpp"
#include "loss.hpp"
#include "norm.hpp"
#include "optimizer.hpp"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

template <class T> struct Of {
  void (*add_rms_norm)(const T *, const T *, const float *, float, T *, T *, float *, int64_t, int64_t);
  void (*rms_norm_again)(const T *, const float *, const float *, T *, int64_t, int64_t);
  void (*rms_norm_backward)(const T *, const T *, const float *, const float *, T *, bool, float *, bool, int64_t,
                            int64_t);
  void (*norm_parts)(T *, T *, float *, const float *, float, Parts);
  void (*norm_parts_backward)(T *, const T *, const float *, const float *, float *, bool, Parts);
  void (*column_sums)(const T *, float *, bool, int64_t, int64_t);
  void (*split_heads)(const T *, const float *, const float *, const float *, T *, T *, T *, Heads);
  void (*join_heads_backward)(const T *, const T *, const T *, const float *, const float *, T *, Heads);
  void (*join_heads)(const T *, T *, Heads);
  void (*split_heads_backward)(const T *, const T *, T *, float *, Heads);
  void (*softmax_forward)(T *, float *, float, float, Scores);
  void (*softmax_backward)(T *, T *, const float *, const float *, float, float, Scores);
  void (*swiglu)(const T *, T *, int64_t, int64_t);
  void (*swiglu_backward)(T *, T *, int64_t, int64_t);
  void (*geglu)(const T *, T *, int64_t, int64_t);
  void (*geglu_backward)(T *, T *, int64_t, int64_t);
  void (*embed)(const T *, const int64_t *, T *, int64_t, int64_t);
  void (*embed_backward_same)(const T *, const int64_t *, T *, int64_t, int64_t);
  void (*embed_backward_wide)(const T *, const int64_t *, float *, int64_t, int64_t);
  void (*cross_entropy)(T *, const int64_t *, float *, float, float, bool, int64_t, int64_t);
  double (*sum_of_squares)(const T *, int64_t);
  void (*accumulate)(const T *, float *, int64_t);
  void (*adamw)(float *, const T *, float *, float *, bf16 *, int64_t, AdamW);
};

template <class T> constexpr Of<T> of() {
  return {add_rms_norm<T>,
          rms_norm_again<T>,
          rms_norm_backward<T>,
          norm_parts<T>,
          norm_parts_backward<T>,
          column_sums<T>,
          split_heads<T>,
          join_heads_backward<T>,
          join_heads<T>,
          split_heads_backward<T>,
          softmax_forward<T>,
          softmax_backward<T>,
          gated<T, Silu>,
          gated_backward<T, Silu>,
          gated<T, GeluTanh>,
          gated_backward<T, GeluTanh>,
          embed<T>,
          embed_backward<T, T>,
          embed_backward<T, float>,
          cross_entropy<T>,
          sum_of_squares<T>,
          accumulate<T>,
          adamw<T>};
}

struct Table {
  Of<float> fp32;
  Of<bf16> half;
  void (*to_bf16)(const float *, bf16 *, int64_t);
};

} // namespace

extern "C" {
extern const Table JOIN(senmon_kernels_, LEVEL);
const Table JOIN(senmon_kernels_, LEVEL) = {of<float>(), of<bf16>(), to_bf16};
}
