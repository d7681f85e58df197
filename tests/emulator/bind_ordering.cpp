// What blocks owe each other, and what a launch may have: kernels that are right, and wrong on purpose.
#include "common/cuda/launch.cuh"
#include "emulator/binding.h"

namespace {

using emulator::Array;
using ssd_cuda::load_relaxed;
using ssd_cuda::store_relaxed;
namespace py = pybind11;

constexpr unsigned kAll = 0xffffffffu;

template <typename... Params, typename... Args>
void run(void (*kernel)(Params...), unsigned blocks, unsigned threads, Args... args) {
  emulator::check(emulator::launch(kernel, dim3(blocks), dim3(threads), 0, nullptr, args...));
}

// How a ticket can be wrong, a bit each.
enum Omission : unsigned {
  kNoFenceBefore = 1,
  kNoFenceAfter = 2,
  kFenceTooLate = 4,  // of the writer: after its atomic
  kOwnTicket = 8,     // each block has a ticket of its own
};

// Every block leaves a partial sum; the last to arrive adds them up. One thread writes, fences and arrives.
template <typename Partial>
__global__ void last_block_kernel(const int* input, Partial* partial, unsigned* arrived, int* sum,
                                  unsigned omitted) {
  __shared__ bool last;
  const int value = __reduce_add_sync(kAll, input[blockIdx.x * 32 + threadIdx.x]);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = value;
    if (!(omitted & (kNoFenceBefore | kFenceTooLate))) __threadfence();
    if (omitted & kOwnTicket) {
      atomicAdd(arrived + 1 + blockIdx.x, 1u);
      last = blockIdx.x == gridDim.x - 1;
    } else {
      last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    }
    if (!(omitted & kNoFenceAfter)) __threadfence();
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  int total = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) total += partial[i];
  *sum = total;
}

// The same by all threads: everybody writes and fences, a barrier hands on to the one that arrives and back.
__global__ void last_block_of_all_kernel(const int* input, int* partial, unsigned* arrived,
                                         int* sum, unsigned omitted) {
  __shared__ bool last;
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  partial[i] = 2 * input[i];
  if (!(omitted & (kNoFenceBefore | kFenceTooLate))) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    if (omitted & kFenceTooLate) __threadfence();
  }
  __syncthreads();
  if (!last) return;
  if (!(omitted & kNoFenceAfter)) __threadfence();
  int total = 0;
  for (unsigned k = threadIdx.x; k < gridDim.x * blockDim.x; k += blockDim.x) total += partial[k];
  total = __reduce_add_sync(kAll, total);
  if (threadIdx.x == 0) *sum = total;
}

// A number that everybody sets and looks at: nothing is ordered, and what is seen does not matter.
__global__ void relaxed_kernel(unsigned char* flag, int* output) {
  const bool seen = load_relaxed(flag) != 0;
  if (!seen) store_relaxed(flag, static_cast<unsigned char>(1));
  output[blockIdx.x * blockDim.x + threadIdx.x] = 7;
}
// Right only if all see what the first has set.
__global__ void relaxed_order_kernel(unsigned char* flag, int* output) {
  store_relaxed(flag, static_cast<unsigned char>(1));
  if (blockIdx.x == gridDim.x - 1) output[threadIdx.x] = *flag;
}

// All threads count in shared memory, and the last one looks right behind its own atomic, or behind a barrier.
template <bool kMeets>
__global__ void look_kernel(int* output) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  if (kMeets) __syncthreads();
  if (threadIdx.x == blockDim.x - 1) output[0] = count;
}

// Counts the blocks that find the flag unset: one, unless others run between the look and the setting.
__global__ void meet_kernel(unsigned* flag, int* finders) {
  if (threadIdx.x != 0) return;
  const unsigned seen = load_relaxed(flag);
  __threadfence();
  store_relaxed(flag, 1u);
  if (seen == 0) atomicAdd(finders, 1);
}

// kBytes of static shared memory, in a function that the kernel calls where kCalled.
template <int kBytes, bool kCalled>
__device__ int static_shared(int value) {
  __shared__ int tile[kBytes / 4];
  tile[threadIdx.x] = value;
  __syncthreads();
  return tile[threadIdx.x ^ 1];
}
template <int kBytes, bool kCalled>
__global__ void static_kernel(int* output) {
  SSD_DYNAMIC_SHARED(int, dynamic);
  emulator::after_previous_kernel();  // does nothing where the launch does not ask for it
  if constexpr (kCalled) {
    output[threadIdx.x] = static_shared<kBytes, kCalled>(1);
  } else {
    __shared__ int tile[kBytes / 4];
    tile[threadIdx.x] = 1;
    __syncthreads();
    output[threadIdx.x] = tile[threadIdx.x ^ 1];
  }
  if (dynamic == nullptr) output[0] = 0;
}

// Launched as kernels are that may begin before the one before them has ended.
enum class Begins { kAfter, kEarly, kUnwaited };
template <Begins kBegins>
__global__ void overlapping_kernel(int* output) {
  __shared__ int own[64];
  own[threadIdx.x] = static_cast<int>(threadIdx.x);  // what nobody else has written needs no wait
  if (kBegins == Begins::kUnwaited && blockIdx.x == 1) return;
  if (kBegins == Begins::kEarly && threadIdx.x == 7) output[7] = 1;
  emulator::after_previous_kernel();
  if (blockIdx.x == 0) output[threadIdx.x] = own[threadIdx.x];
}
template <Begins kBegins>
Array<int> overlapping(unsigned blocks, unsigned threads) {
  Array<int> output({64}, 0);
  emulator::check(emulator::launch<emulator::Overlap::kWaits>(
      overlapping_kernel<kBegins>, dim3(blocks), dim3(threads), 0, nullptr, output.data()));
  return output;
}

// A kernel that the next one may begin beside, or (kWaits) may not: doubles what it reads.
template <bool kSpares>
__global__ void first_kernel(const int* input, int* output) {
  kSpares ? emulator::after_all_before() : emulator::after_previous_kernel();
  output[threadIdx.x] = 2 * input[threadIdx.x];
}
// Begins beside it.
enum class Touches { kOther, kWritten, kRead, kReadTwice, kCopied, kByL1, kUnordered };
template <Touches kTouches>
__global__ void beside_kernel(int* input, const int* doubled, const int* other, int* output) {
  const int own = kTouches == Touches::kByL1 ? other[threadIdx.x] : __ldcg(other + threadIdx.x);
  output[threadIdx.x] = own;
  if (kTouches == Touches::kWritten && threadIdx.x == 7) output[7] = __ldcg(doubled + 7);
  if (kTouches == Touches::kRead && threadIdx.x == 7) input[7] = 0;
  if (kTouches == Touches::kReadTwice && threadIdx.x == 7) input[7] = __ldcg(input + 7) + 1;
  __shared__ uint4 copied;
  if (kTouches == Touches::kCopied && threadIdx.x == 7) {
    emulator::copy_async(&copied, reinterpret_cast<const uint4*>(doubled));
    emulator::end_copies();
  }
  emulator::after_previous_kernel();
  output[threadIdx.x] = own + doubled[threadIdx.x];
  if (kTouches == Touches::kCopied && threadIdx.x == 7) emulator::wait_copies(0);
}
template <Touches kTouches, bool kSpares>
Array<int> beside(Array<int> input, Array<int> other, bool host_between) {
  using emulator::Overlap;
  const dim3 block(static_cast<unsigned>(input.size()));
  Array<int> doubled({input.shape(0)}), output({input.shape(0)}), byte({1}, 0);
  emulator::check(emulator::launch<Overlap::kWaits>(first_kernel<kSpares>, dim3(1), block, 0,
                                                    nullptr, input.data(), doubled.data()));
  if (host_between) cudaMemsetAsync(byte.data(), 0, sizeof(int), nullptr);
  emulator::check(emulator::launch<Overlap::kBeside>(beside_kernel<kTouches>, dim3(1), block, 0,
                                                     nullptr, input.data(), doubled.data(),
                                                     other.data(), output.data()));
  return output;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("beside", &beside<Touches::kOther, true>);
  m.def("beside_written", &beside<Touches::kWritten, true>);
  m.def("beside_read", &beside<Touches::kRead, true>);
  m.def("beside_read_twice", &beside<Touches::kReadTwice, true>);
  m.def("beside_copied", &beside<Touches::kCopied, true>);
  m.def("beside_by_l1", &beside<Touches::kByL1, true>);
  m.def("beside_unordered", &beside<Touches::kUnordered, false>);
  m.def("last_block_sum", [](Array<int> input, unsigned omitted, bool is_volatile) {
    const auto blocks = static_cast<unsigned>(input.size() / 32);
    Array<int> partial({py::ssize_t(blocks)}), sum({1});
    Array<unsigned> arrived({py::ssize_t(blocks) + 1}, 0u);
    const auto launch_of = [&](auto kernel) {
      run(kernel, blocks, 32, input.data(), partial.data(), arrived.data(), sum.data(), omitted);
    };
    is_volatile ? launch_of(last_block_kernel<volatile int>) : launch_of(last_block_kernel<int>);
    return sum;
  });
  m.def("last_block_sum_of_all", [](Array<int> input, unsigned omitted) {
    Array<int> partial({py::ssize_t(input.size())}), sum({1});
    Array<unsigned> arrived({1}, 0u);
    run(last_block_of_all_kernel, static_cast<unsigned>(input.size() / 32), 32, input.data(),
        partial.data(), arrived.data(), sum.data(), omitted);
    return sum;
  });
  m.def("relaxed", [](unsigned blocks, bool ordered) {
    Array<unsigned char> flag({1}, static_cast<unsigned char>(0));
    Array<int> output({py::ssize_t(blocks) * 32}, 0);
    run(ordered ? relaxed_order_kernel : relaxed_kernel, blocks, 32, flag.data(), output.data());
    return output;
  });
  m.def("look", [](unsigned threads, bool meets) {
    Array<int> output({1});
    run(meets ? look_kernel<true> : look_kernel<false>, 1, threads, output.data());
    return output;
  });
  m.def("meet", [](unsigned blocks) {
    Array<unsigned> flag({1}, 0u);
    Array<int> finders({1}, 0);
    run(meet_kernel, blocks, 32, flag.data(), finders.data());
    return finders;
  });
  // The error of launch(), which asks for shared memory as kernels do, or of a launch that does not ask.
  m.def("launch_shared", [](int static_kilobytes, bool called, std::size_t dynamic, bool asks) {
    Array<int> output({32}, 0);
    const auto launch_of = [&](auto kernel) {
      return static_cast<int>(
          asks ? ssd_cuda::launch(kernel, dim3(1), dim3(32), dynamic, nullptr, output.data())
               : emulator::launch(kernel, dim3(1), dim3(32), dynamic, nullptr, output.data()));
    };
    constexpr int kKilo = 1024;
    if (called) return launch_of(static_kernel<8 * kKilo, true>);
    return static_kilobytes == 8    ? launch_of(static_kernel<8 * kKilo, false>)
           : static_kilobytes == 20 ? launch_of(static_kernel<20 * kKilo, false>)
                                    : launch_of(static_kernel<52 * kKilo, false>);
  });
  m.def("room", &ssd_cuda::dynamic_shared_room);
  m.def("overlapping", &overlapping<Begins::kAfter>);
  m.def("overlapping_early", &overlapping<Begins::kEarly>);
  m.def("overlapping_unwaited", &overlapping<Begins::kUnwaited>);
}
