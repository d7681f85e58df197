// Kernels that use every primitive once, and kernels that are wrong on purpose: the emulator's own tests.
#include "common/cuda/copies.cuh"
#include "emulator/binding.h"

namespace {

using emulator::Array;
namespace py = pybind11;

constexpr unsigned kAll = 0xffffffffu;

template <typename... Params, typename... Args>
void run(void (*kernel)(Params...), unsigned blocks, unsigned threads, std::size_t shared,
         Args... args) {
  emulator::check(emulator::launch(kernel, dim3(blocks), dim3(threads), shared, nullptr, args...));
}

// ---- Right kernels.

template <typename T>
__device__ T block_sum(T value) {
  __shared__ T partial[32];
  for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(kAll, value, delta);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += partial[i];
  __syncthreads();
  return sum;
}

// Sums each block of input twice through static shared memory in a template; then reverses it in dynamic memory.
template <typename T>
__global__ void sum_and_reverse_kernel(const T* input, T* sums, T* reversed) {
  T* tile = static_cast<T*>(emulator::dynamic_shared_memory());
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const T sum = block_sum(input[i]);
  const T twice = block_sum(T(2) * input[i]);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum + twice;
  tile[threadIdx.x] = input[i];
  __syncthreads();
  reversed[i] = tile[blockDim.x - 1 - threadIdx.x];
}

// Row r of output holds what primitive r gives each of 32 lanes; only even lanes take part in the second half.
__global__ void warp_kernel(const unsigned* input, unsigned* output) {
  const unsigned lane = threadIdx.x, v = input[lane];
  auto put = [&](int row, unsigned value) { output[row * 32 + lane] = value; };
  put(0, __shfl_sync(kAll, v, 5));
  put(1, __shfl_sync(kAll, v, 3, 8));
  put(2, __shfl_up_sync(kAll, v, 2));
  put(3, __shfl_down_sync(kAll, v, 3, 16));
  put(4, __shfl_xor_sync(kAll, v, 9));
  put(5, __ballot_sync(kAll, v & 1));
  put(6, static_cast<unsigned>(__any_sync(kAll, v > 1000000)));
  put(7, static_cast<unsigned>(__all_sync(kAll, v < 1000000)));
  put(8, __match_any_sync(kAll, v % 3));
  put(9, __reduce_add_sync(kAll, v));
  put(10, __reduce_max_sync(kAll, v));
  put(11, __reduce_min_sync(kAll, v));
  put(12, __reduce_or_sync(kAll, v));
  put(13, static_cast<unsigned>(
              __shfl_xor_sync(kAll, static_cast<unsigned long long>(v) << 32, 1) >> 32));
  put(14, static_cast<unsigned>(__shfl_xor_sync(kAll, static_cast<double>(v), 16)));
  if (lane % 2) return;
  put(15, __reduce_add_sync(0x55555555u, v));
  put(16, __ballot_sync(0x55555555u, 1));
  __syncwarp(0x55555555u);
  put(17, __shfl_sync(0x55555555u, v, 30));
}

__global__ void vote_kernel(const int* input, int* output) {
  const int v = input[threadIdx.x];
  const int count = __syncthreads_count(v > 0), any = __syncthreads_or(v > 9),
            all = __syncthreads_and(v > -9);
  if (threadIdx.x == 0) output[0] = count, output[1] = any, output[2] = all;
}

__global__ void atomic_kernel(unsigned long long* best, unsigned* count, int* least,
                              unsigned* wrapped) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicMax(best, static_cast<unsigned long long>(i * 7919u % 1000u) << 32 | i);
  atomicAdd(count, i);
  atomicMin(least, -static_cast<int>(i));
  atomicInc(wrapped, 9u);
  atomicCAS(wrapped + 1, 0u, 77u);
}

// One row of output per intrinsic on bits and conversions.
__global__ void numbers_kernel(const float* input, unsigned* output, unsigned count) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float v = input[i];
  const unsigned u = __float_as_uint(v);
  auto put = [&](unsigned row, unsigned value) { output[row * count + i] = value; };
  put(0, __half_as_ushort(__float2half_rn(v)));
  put(1, __bfloat16_as_ushort(__float2bfloat16_rn(v)));
  put(2, __float_as_uint(__half2float(__float2half_rn(v))));
  put(3, __float_as_uint(__bfloat162float(__float2bfloat16_rn(v))));
  put(4, static_cast<unsigned>(__popc(u)));
  put(5, static_cast<unsigned>(__clz(static_cast<int>(u))));
  put(6, static_cast<unsigned>(__ffs(static_cast<int>(u))));
  put(7, __brev(u));
  put(8, static_cast<unsigned>(__float2int_rn(v)));
  put(9, __umulhi(u, 0x9e3779b9u));
  put(10, __funnelshift_l(u, ~u, 7));
}

// ---- Wrong kernels.

__global__ void missed_barrier_kernel(int* output) {
  if (threadIdx.x == 7) return;
  __syncthreads();
  output[threadIdx.x] = 1;
}

__global__ void split_barrier_kernel(int* output) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  output[threadIdx.x] = 1;
}

// The other half of the warp is at a barrier: a shuffle and a barrier that wait for each other.
__global__ void stuck_kernel(int* output) {
  if (threadIdx.x < 16) output[threadIdx.x] = __shfl_sync(kAll, 1, 0);
  __syncthreads();
}

__global__ void finished_lane_kernel(int* output) {
  if (threadIdx.x >= 20) return;
  __syncwarp(0x000fffffu);
  output[threadIdx.x] = __shfl_down_sync(kAll, static_cast<int>(threadIdx.x), 1);
}

__global__ void absent_lane_kernel(int* output) {
  output[threadIdx.x] = __shfl_sync(kAll, 1, 0);  // launched with 20 threads
}

__global__ void unnamed_caller_kernel(int* output) {
  output[threadIdx.x] = static_cast<int>(__ballot_sync(0x7fffffffu, 1));
}

__global__ void unnamed_source_kernel(int* output) {
  if (threadIdx.x >= 16) return;
  output[threadIdx.x] = __shfl_sync(0x0000ffffu, static_cast<int>(threadIdx.x), 20);
}

__global__ void mixed_masks_kernel(int* output) {
  const unsigned mask = threadIdx.x < 16 ? kAll : 0xffff0000u;
  output[threadIdx.x] = static_cast<int>(__ballot_sync(mask, 1));
}

// Reads its neighbour's element without a barrier.
__global__ void shared_race_kernel(int* output) {
  __shared__ int tile[64];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  output[threadIdx.x] = tile[(threadIdx.x + 1) % blockDim.x];
}

// Relies on the lanes of a warp in lock step.
__global__ void lockstep_kernel(int* output) {
  __shared__ volatile int tile[32];
  tile[threadIdx.x] = 1;
  if (threadIdx.x < 16) tile[threadIdx.x] = tile[threadIdx.x] + tile[threadIdx.x + 16];
  if (threadIdx.x < 8) tile[threadIdx.x] = tile[threadIdx.x] + tile[threadIdx.x + 8];
  output[threadIdx.x] = tile[threadIdx.x];
}

// Overwrites the broadcast of the last round while others may still read it.
__global__ void late_reader_kernel(int* output) {
  __shared__ int broadcast;
  for (int round = 0; round < 4; ++round) {
    if (threadIdx.x == 0) broadcast = round;
    __syncthreads();
    output[round * 64 + threadIdx.x] = broadcast;
  }
}

// Two blocks write one element.
__global__ void block_race_kernel(int* output) {
  if (threadIdx.x == 0) output[0] = static_cast<int>(blockIdx.x);
}

// Appends in the order of arrival.
__global__ void arrival_order_kernel(unsigned* count, int* output) {
  output[atomicAdd(count, 1u)] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

// Counts without an atomic.
__global__ void lost_update_kernel(int* count) { *count = *count + 1; }

template <typename T>
__global__ void uninitialized_kernel(T* output) {
  __shared__ T tile[64];
  if (threadIdx.x < 63) tile[threadIdx.x] = T(1);
  __syncthreads();
  output[threadIdx.x] = tile[threadIdx.x];
}

__global__ void uninitialized_dynamic_kernel(int* output) {
  output[threadIdx.x] = static_cast<int*>(emulator::dynamic_shared_memory())[threadIdx.x];
}

// Each thread passes 16 bytes of its own through shared memory, whether it waits for them or not; or reads those of
// another thread without a barrier.
enum class Copied { kRight, kUnwaited, kUnmet };
template <Copied kHow>
__global__ void copied_kernel(int* output) {
  uint4* tile = static_cast<uint4*>(emulator::dynamic_shared_memory());
  auto* mine = reinterpret_cast<uint4*>(output) + threadIdx.x;
  ssd_cuda::copy_async(tile + threadIdx.x, mine);
  if (kHow != Copied::kUnwaited) ssd_cuda::wait_copies();
  if (kHow != Copied::kUnmet) __syncthreads();
  const uint4 other = tile[threadIdx.x ^ 1];
  __syncthreads();
  *mine = uint4{other.x + 1, other.y, other.z, other.w};
}

// A warp adds up tiles of 32 vectors, each lane its neighbour's, while the next tile is copied. Wrong, by choice: it waits for
// too few copies, or begins one where others may still read.
template <Copied kHow>
__global__ void staged_kernel(const int4* input, int tiles, int* output) {
  __shared__ uint4 stages[2][32];
  const unsigned lane = threadIdx.x;
  const auto load = [&](int tile) {
    const auto* next = reinterpret_cast<const uint4*>(input) + 32 * tile + lane;
    if (tile < tiles) ssd_cuda::copy_async(&stages[tile % 2][lane], next);
    ssd_cuda::end_copies();
  };
  load(0);
  unsigned sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    if (kHow != Copied::kUnmet) __syncwarp();
    load(tile + 1);
    ssd_cuda::wait_copies_but<kHow == Copied::kUnwaited ? 2 : 1>();
    __syncwarp();
    const uint4 vector = stages[tile % 2][(lane + 1) % 32];
    sum += vector.x + vector.y + vector.z + vector.w;
  }
  output[lane] = static_cast<int>(sum);
}
// The numbers from 0 on are the input.
template <Copied kHow>
Array<int> staged(int tiles) {
  Array<int> input({128 * tiles}, 0), output({32}, 0);
  for (int i = 0; i < 128 * tiles; ++i) input.data()[i] = i;
  run(staged_kernel<kHow>, 1, 32, 0, reinterpret_cast<const int4*>(input.data()), tiles,
      output.data());
  return output;
}

__global__ void write_past_kernel(int* output, int distance) {
  output[static_cast<int>(threadIdx.x) + distance] = 1;
}
__global__ void read_past_kernel(const int* input, int* output, int distance) {
  output[threadIdx.x] = input[static_cast<int>(threadIdx.x) + distance];
}
__global__ void dynamic_past_kernel(int* output, int distance) {
  int* tile = static_cast<int*>(emulator::dynamic_shared_memory());
  tile[static_cast<int>(threadIdx.x) + distance] = 1;
  output[threadIdx.x] = 1;
}
template <typename T>
__global__ void static_past_kernel(T* output, int distance) {
  __shared__ T tile[48];
  tile[static_cast<int>(threadIdx.x) + distance] = 1;
  __syncthreads();
  output[threadIdx.x] = tile[threadIdx.x + 16];
}
__global__ void overflow_kernel(int* output) {
  output[threadIdx.x] = 0x7fffffff + static_cast<int>(threadIdx.x);
}
__global__ void long_shift_kernel(int* output) {
  output[threadIdx.x] = static_cast<int>(1u << (threadIdx.x + 16));
}
__global__ void misaligned_kernel(const int* input, int4* output, int offset) {
  output[threadIdx.x] = reinterpret_cast<const int4*>(input + offset)[threadIdx.x];
}

void define_right(py::module_& m) {
  m.def("sum_and_reverse", [](Array<float> input, unsigned threads) {
    const auto blocks = static_cast<unsigned>(input.size() / threads);
    Array<float> sums({py::ssize_t(blocks)}), reversed({input.shape(0)});
    run(sum_and_reverse_kernel<float>, blocks, threads, threads * sizeof(float), input.data(),
        sums.data(), reversed.data());
    return py::make_tuple(sums.numpy(), reversed.numpy());
  });
  m.def("warp", [](Array<unsigned> input) {
    Array<unsigned> output({18, 32}, 0u);
    run(warp_kernel, 1, 32, 0, input.data(), output.data());
    return output;
  });
  m.def("vote", [](Array<int> input) {
    Array<int> output({3});
    run(vote_kernel, 1, static_cast<unsigned>(input.size()), 0, input.data(), output.data());
    return output;
  });
  m.def("atomics", [](unsigned blocks, unsigned threads) {
    Array<unsigned long long> best({1}, 0ull);
    Array<unsigned> count({1}, 0u), wrapped({2}, 0u);
    Array<int> least({1}, 0);
    run(atomic_kernel, blocks, threads, 0, best.data(), count.data(), least.data(), wrapped.data());
    return py::make_tuple(best.numpy(), count.numpy(), least.numpy(), wrapped.numpy());
  });
  m.def("numbers", [](Array<float> input) {
    const auto count = static_cast<unsigned>(input.size());
    Array<unsigned> output({11, py::ssize_t(count)});
    run(numbers_kernel, (count + 63) / 64, 64, 0, input.data(), output.data(), count);
    return output;
  });
  m.def("copied", [](Array<int> memory) {
    const auto threads = static_cast<unsigned>(memory.size() / 4);
    run(copied_kernel<Copied::kRight>, 1, threads, 16 * threads, memory.data());
    return memory;
  });
  m.def("staged", &staged<Copied::kRight>);
  m.def("launch_empty", [](unsigned x, unsigned y, unsigned block, std::size_t shared) {
    return static_cast<int>(
        emulator::launch(lost_update_kernel, dim3(x, y), dim3(block), shared, nullptr, nullptr));
  });
}

// A kernel that takes its output alone.
template <typename T>
void define_wrong(py::module_& m, const char* name, void (*kernel)(T*), std::size_t shared = 0) {
  m.def(name, [=](unsigned blocks, unsigned threads) {
    Array<T> output({256}, T(0));
    run(kernel, blocks, threads, shared, output.data());
    return output;
  });
}
void define_wrong(py::module_& m) {
  define_wrong(m, "missed_barrier", missed_barrier_kernel);
  define_wrong(m, "split_barrier", split_barrier_kernel);
  define_wrong(m, "stuck", stuck_kernel);
  define_wrong(m, "finished_lane", finished_lane_kernel);
  define_wrong(m, "absent_lane", absent_lane_kernel);
  define_wrong(m, "unnamed_caller", unnamed_caller_kernel);
  define_wrong(m, "unnamed_source", unnamed_source_kernel);
  define_wrong(m, "mixed_masks", mixed_masks_kernel);
  define_wrong(m, "shared_race", shared_race_kernel);
  define_wrong(m, "lockstep", lockstep_kernel);
  define_wrong(m, "late_reader", late_reader_kernel);
  define_wrong(m, "block_race", block_race_kernel);
  define_wrong(m, "lost_update", lost_update_kernel);
  define_wrong(m, "uninitialized", uninitialized_kernel<float>);
  define_wrong(m, "uninitialized_dynamic", uninitialized_dynamic_kernel, 1024);
  define_wrong(m, "unwaited_copy", copied_kernel<Copied::kUnwaited>, 1024);
  define_wrong(m, "unmet_copy", copied_kernel<Copied::kUnmet>, 1024);
  define_wrong(m, "overflow", overflow_kernel);
  define_wrong(m, "long_shift", long_shift_kernel);
  m.def("unwaited_stage", &staged<Copied::kUnwaited>);
  m.def("unmet_stage", &staged<Copied::kUnmet>);
  m.def("arrival_order", [](unsigned blocks, unsigned threads) {
    Array<unsigned> count({1}, 0u);
    Array<int> output({py::ssize_t(blocks * threads)});
    run(arrival_order_kernel, blocks, threads, 0, count.data(), output.data());
    return output;
  });
  m.def("write_past", [](int distance) {
    Array<int> output({32}, 0);
    run(write_past_kernel, 1, 32, 0, output.data(), distance);
  });
  m.def("read_past", [](int distance) {
    Array<int> input({32}, 0, "an input"), output({32});
    run(read_past_kernel, 1, 32, 0, input.data(), output.data(), distance);
  });
  m.def("dynamic_past", [](int distance) {
    Array<int> output({32}, 0);
    run(dynamic_past_kernel, 1, 32, 128, output.data(), distance);
  });
  m.def("static_past", [](int distance) {
    Array<int> output({32}, 0);
    run(static_past_kernel<int>, 1, 32, 0, output.data(), distance);
  });
  m.def("misaligned", [](int offset) {
    Array<int> input({256}, 0);
    Array<int4> output({32}, int4{});
    run(misaligned_kernel, 1, 32, 0, input.data(), output.data(), offset);
  });
}

}  // namespace

EMULATOR_MODULE(m) {
  define_right(m);
  define_wrong(m);
}
