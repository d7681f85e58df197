// Kernels that touch memory they should not, for a program built with AddressSanitizer and
// UndefinedBehaviorSanitizer: memory_defects NAME runs one and is expected to end in the sanitizer's report.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulator/cuda.h"

// The emulator keeps its books for the life of the process: not what is looked for here.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
  return "detect_leaks=0";
}

namespace {

// The thread's element, `distance` further on.
__global__ void write_kernel(int* output, int distance) {
  output[static_cast<int>(threadIdx.x) + distance] = 1;
}
__global__ void read_kernel(const int* input, int* output, int distance) {
  output[threadIdx.x] = input[static_cast<int>(threadIdx.x) + distance];
}
__global__ void dynamic_shared_kernel(int* output, int distance) {
  int* tile = static_cast<int*>(emulator::dynamic_shared_memory());
  tile[threadIdx.x] = 1;
  __syncthreads();
  output[threadIdx.x] = tile[static_cast<int>(threadIdx.x) + distance];
}
template <typename T>
__global__ void static_shared_kernel(T* output, int distance) {
  __shared__ T tile[32];
  tile[threadIdx.x] = 1;
  __syncthreads();
  output[threadIdx.x] = tile[static_cast<int>(threadIdx.x) + distance];
}
__global__ void stack_kernel(int* output, int distance) {
  int local[8] = {};
  volatile int* p = local;
  output[threadIdx.x] = p[distance];
}
__global__ void misaligned_kernel(const int* input, int* output, int distance) {
  output[threadIdx.x] = reinterpret_cast<const int4*>(input + distance)[threadIdx.x / 8].x;
}
__global__ void shift_kernel(int* output, int distance) {
  output[threadIdx.x] = 1 << (31 + distance);
}
__global__ void overflow_kernel(int* output, int distance) {
  output[threadIdx.x] = 0x7fffffff + distance;
}

}  // namespace

// memory_defects NAME DISTANCE: at distance 0 every kernel is right.
int main(int count, char** arguments) {
  if (count != 3) return 2;
  const char* name = arguments[1];
  const int distance = std::atoi(arguments[2]);
  emulator::GuardedBuffer input(32 * sizeof(int), "an input"),
      output(32 * sizeof(int), "an output");
  int *in = static_cast<int*>(input.data()), *out = static_cast<int*>(output.data());
  std::memset(in, 0, 32 * sizeof(int));
  auto is = [&](const char* wanted) { return std::strcmp(name, wanted) == 0; };
  auto run = [&](auto kernel, std::size_t shared, auto... args) {
    emulator::launch(kernel, dim3(2), dim3(32), shared, nullptr, args...);
  };
  if (is("write")) run(write_kernel, 0, out, distance);
  if (is("read")) run(read_kernel, 0, in, out, distance);
  if (is("dynamic_shared")) run(dynamic_shared_kernel, 32 * sizeof(int), out, distance);
  if (is("static_shared")) run(static_shared_kernel<int>, 0, out, distance);
  if (is("stack")) run(stack_kernel, 0, out, distance);
  if (is("misaligned")) run(misaligned_kernel, 0, in, out, distance);
  if (is("shift")) run(shift_kernel, 0, out, distance);
  if (is("overflow")) run(overflow_kernel, 0, out, distance);
  std::puts("done");
}
