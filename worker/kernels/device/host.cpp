// The same kernels as functions of the CPU, for tests: blocks one after the other, a thread of the system for each of
// a block's. Compiled once for each number format and width; VARIANT names the table.
#include "layer.hpp"
#include "norm.hpp"
#include "heads.hpp"
#include "loss.hpp"
#include "optimizer.hpp"
#include <thread>
#include <utility>
#include <vector>

namespace {

struct Shape {
  I64 blocks_x, blocks_y;
  I32 threads_x, threads_y;
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A *>(arguments[I])...);
}

template <class... A> void launch(void (*kernel)(A...), void **arguments, Shape s) {
  int count = s.threads_x * s.threads_y;
  pthread_barrier_init(&barrier, nullptr, unsigned(count));
  std::vector<std::thread> threads;
  for (int index = 0; index < count; index++)
    threads.emplace_back([=] {
      for (I64 y = 0; y < s.blocks_y; y++)
        for (I64 x = 0; x < s.blocks_x; x++) {
          place = {index % s.threads_x, index / s.threads_x, s.threads_x, s.threads_y, x, y, s.blocks_x};
          call(kernel, arguments, std::index_sequence_for<A...>());
          sync();
        }
    });
  for (auto &thread : threads) thread.join();
  pthread_barrier_destroy(&barrier);
}

template <auto kernel> void run(void **arguments, const Shape *shape) { launch(kernel, arguments, *shape); }

struct Entry {
  const char *name;
  void (*run)(void **, const Shape *);
};

} // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define ENTRY(name) {#name, run<name>}

extern "C" {
extern const Entry JOIN(senmon_device_, VARIANT)[];
const Entry JOIN(senmon_device_, VARIANT)[] = {
    ENTRY(add_rms_norm), ENTRY(rms_norm_backward), ENTRY(column_parts), ENTRY(sum_parts),           ENTRY(rotate),
    ENTRY(norm_heads),   ENTRY(norm_heads_backward), ENTRY(geglu),     ENTRY(geglu_backward),
    ENTRY(rotate_back),  ENTRY(swiglu),            ENTRY(swiglu_backward), ENTRY(embed),            ENTRY(embed_backward),
    ENTRY(embed_backward_runs), ENTRY(cross_entropy), ENTRY(squares),   ENTRY(squares_wide),        ENTRY(finish),
    ENTRY(accumulate),   ENTRY(adamw),             ENTRY(adamw_wide),   {nullptr, nullptr}};
}
