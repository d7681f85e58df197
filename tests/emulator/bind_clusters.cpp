// Clusters of blocks: kernels that are right, and wrong on purpose.
#include "common/cuda/cluster.cuh"
#include "emulator/binding.h"

namespace {

using emulator::Array;
using namespace ssd_cuda;
namespace py = pybind11;

template <typename... Params, typename... Args>
cudaError_t run(void (*kernel)(Params...), unsigned cluster, unsigned blocks, unsigned threads,
                std::size_t shared, Args... args) {
  return emulator::launch_clusters(cluster, kernel, dim3(blocks), dim3(threads), shared, nullptr,
                                   args...);
}

__device__ void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// How a kernel can be wrong.
enum class Wrong : int {
  kNothing,
  kTooEarly,     // no barrier before the first access to another block
  kNoLast,       // none behind the last one
  kRankPast,     // the block after the last
  kMappedTwice,  // another block's pointer taken for its own
  kStatic,       // static shared memory
  kOwnAlone,     // a barrier of the block where one of the cluster is wanted
  kOneStays,     // a block that does not come to the barrier
  kThreadStays,  // a thread that does not
  kTwoPlaces,    // at two barriers at once
  kTwice,        // arrives twice
  kUnarrived,    // waits without
  kHalf,         // ends between the halves
  kOwnOrder,     // a barrier that orders the block's own memory where more is written
};

// Each block leaves its numbers in its shared memory, and adds up those of all blocks of its cluster.
template <Wrong kWrong>
__global__ void sum_kernel(const int* input, int* sums) {
  SSD_DYNAMIC_SHARED(int, own);
  const unsigned t = threadIdx.x, size = cluster_size(), rank = cluster_rank();
  own[t] = input[blockIdx.x * blockDim.x + t];
  if (kWrong == Wrong::kTooEarly || kWrong == Wrong::kOwnAlone) {
    __syncthreads();
  } else {
    cluster_arrive_own();
    cluster_wait();
  }
  if (kWrong == Wrong::kOwnAlone) {
    cluster_barrier();  // so that all have begun
    own[t] += 1;
    __syncthreads();
  }
  int sum = 0;
  for (unsigned k = 0; k < size; ++k) {
    unsigned other = (rank + k) % size;
    if (kWrong == Wrong::kRankPast && k == 1) other = size;
    int* theirs = shared_of_block(own, other);
    if (kWrong == Wrong::kMappedTwice && k == 1) theirs = shared_of_block(theirs, other);
    for (unsigned i = 0; i < blockDim.x; ++i) sum += theirs[(t + i) % blockDim.x];
  }
  if (kWrong != Wrong::kNoLast) cluster_barrier();
  sums[blockIdx.x * blockDim.x + t] = sum;
}

// Counts numbers: number v in the shared memory of block v of the cluster, by atomics there.
template <Wrong kWrong>
__global__ void count_kernel(const int* input, int* counts) {
  SSD_DYNAMIC_SHARED(int, own);
  __shared__ int beside[32];
  if (threadIdx.x == 0) *own = 0;
  cluster_barrier();
  const int v = input[blockIdx.x * blockDim.x + threadIdx.x];
  beside[threadIdx.x % 32] = v;
  atomicAdd(shared_of_block(kWrong == Wrong::kStatic ? beside : own, static_cast<unsigned>(v)), 1);
  if (kWrong == Wrong::kOwnAlone) {
    atomicAdd(own, 0);
    __syncthreads();
    if (threadIdx.x == 0) counts[blockIdx.x] = *own;
    cluster_barrier();
    return;
  }
  if (kWrong == Wrong::kOwnOrder) {
    cluster_arrive_own();
  } else {
    cluster_arrive();
  }
  cluster_wait();
  if (threadIdx.x == 0) counts[blockIdx.x] = *own;
}

// A block writes what another has read, with all barriers but the one between.
template <Wrong kWrong>
__global__ void overwrite_kernel(int* output) {
  SSD_DYNAMIC_SHARED(int, own);
  own[threadIdx.x] = static_cast<int>(blockIdx.x);
  cluster_barrier();
  const int theirs = shared_of_block(own, (cluster_rank() + 1) % cluster_size())[threadIdx.x];
  const int mine = own[threadIdx.x];  // the last that looked is the block itself
  if (kWrong == Wrong::kOwnAlone) {
    __syncthreads();
  } else {
    cluster_arrive_own();
    cluster_wait();
  }
  own[threadIdx.x] = theirs + mine;
  cluster_barrier();
  output[blockIdx.x * blockDim.x + threadIdx.x] = own[threadIdx.x];
}

// The first block of a cluster leaves a number in global memory for the others, who arrive early.
template <Wrong kWrong>
__global__ void global_kernel(int* memory, int* output) {
  const unsigned first = blockIdx.x - cluster_rank();
  if (kWrong == Wrong::kOwnAlone) cluster_arrive();
  if (cluster_rank() == 0 && threadIdx.x == 0) memory[first] = 7 + static_cast<int>(first);
  if (kWrong == Wrong::kOwnOrder) {
    cluster_arrive_own();
  } else if (kWrong != Wrong::kOwnAlone) {
    cluster_arrive();
  }
  cluster_wait();
  output[blockIdx.x * blockDim.x + threadIdx.x] = memory[first];
}

template <Wrong kWrong>
__global__ void barrier_kernel(int* output) {
  if (kWrong == Wrong::kOneStays && cluster_rank() == 1) return;
  if (kWrong == Wrong::kThreadStays && cluster_rank() == 1 && threadIdx.x == 3) return;
  if (kWrong == Wrong::kUnarrived) cluster_wait();
  if (kWrong == Wrong::kTwoPlaces && cluster_rank() == 0) {
    cluster_barrier();
  } else {
    cluster_arrive();
    if (kWrong == Wrong::kTwice) cluster_arrive();
    if (kWrong != Wrong::kHalf) cluster_wait();
  }
  output[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}

template <typename Kernel>
Array<int> of_input(Kernel kernel, Array<int> input, unsigned cluster, unsigned threads) {
  const auto blocks = static_cast<unsigned>(input.size() / threads);
  Array<int> output({py::ssize_t(input.size())}, 0);
  emulator::check(
      run(kernel, cluster, blocks, threads, threads * sizeof(int), input.data(), output.data()));
  return output;
}
template <typename Kernel>
Array<int> of_nothing(Kernel kernel, unsigned cluster, unsigned blocks, unsigned threads) {
  Array<int> output({py::ssize_t(blocks * threads)}, 0);
  emulator::check(run(kernel, cluster, blocks, threads, threads * sizeof(int), output.data()));
  return output;
}
template <Wrong kWrong>
Array<int> through_global(unsigned cluster, unsigned blocks, unsigned threads) {
  Array<int> memory({py::ssize_t(blocks)}), output({py::ssize_t(blocks * threads)}, 0);
  emulator::check(
      run(global_kernel<kWrong>, cluster, blocks, threads, 0, memory.data(), output.data()));
  return output;
}

template <Wrong kWrong>
void define_sum(py::module_& m, const char* name) {
  m.def(name, [](Array<int> input, unsigned cluster, unsigned threads) {
    return of_input(sum_kernel<kWrong>, input, cluster, threads);
  });
}
template <Wrong kWrong>
void define_count(py::module_& m, const char* name) {
  m.def(name, [](Array<int> input, unsigned cluster, unsigned threads) {
    return of_input(count_kernel<kWrong>, input, cluster, threads);
  });
}
template <Wrong kWrong>
void define_barrier(py::module_& m, const char* name) {
  m.def(name, [](unsigned cluster, unsigned blocks, unsigned threads) {
    return of_nothing(barrier_kernel<kWrong>, cluster, blocks, threads);
  });
}
template <Wrong kWrong>
void define_overwrite(py::module_& m, const char* name) {
  m.def(name, [](unsigned cluster, unsigned blocks, unsigned threads) {
    return of_nothing(overwrite_kernel<kWrong>, cluster, blocks, threads);
  });
}

}  // namespace

EMULATOR_MODULE(m) {
  define_sum<Wrong::kNothing>(m, "sum");
  define_sum<Wrong::kTooEarly>(m, "sum_too_early");
  define_sum<Wrong::kNoLast>(m, "sum_without_a_last_barrier");
  define_sum<Wrong::kRankPast>(m, "sum_of_a_block_past_the_last");
  define_sum<Wrong::kMappedTwice>(m, "sum_of_a_pointer_mapped_twice");
  define_sum<Wrong::kOwnAlone>(m, "sum_of_what_is_written_meanwhile");
  define_count<Wrong::kNothing>(m, "count");
  define_count<Wrong::kStatic>(m, "count_in_static_memory");
  define_count<Wrong::kOwnAlone>(m, "count_read_too_early");
  define_count<Wrong::kOwnOrder>(m, "count_that_is_not_ordered");
  define_overwrite<Wrong::kNothing>(m, "overwrite");
  define_overwrite<Wrong::kOwnAlone>(m, "overwrite_what_others_read");
  m.def("through_global", &through_global<Wrong::kNothing>);
  m.def("through_global_too_late", &through_global<Wrong::kOwnAlone>);
  m.def("through_global_not_ordered", &through_global<Wrong::kOwnOrder>);
  define_barrier<Wrong::kNothing>(m, "barrier");
  define_barrier<Wrong::kOneStays>(m, "a_block_stays");
  define_barrier<Wrong::kThreadStays>(m, "a_thread_stays");
  define_barrier<Wrong::kTwoPlaces>(m, "two_places");
  define_barrier<Wrong::kTwice>(m, "arrives_twice");
  define_barrier<Wrong::kUnarrived>(m, "waits_unarrived");
  define_barrier<Wrong::kHalf>(m, "ends_between");
  // The error of launch_clusters(), and whether it is said that such a launch can be.
  m.def("launch", [](unsigned cluster, unsigned blocks) {
    Array<int> output({py::ssize_t(blocks) * 32}, 0);
    return static_cast<int>(
        run(barrier_kernel<Wrong::kNothing>, cluster, blocks, 32, 0, output.data()));
  });
  m.def("has_clusters", [] {
    return has_clusters(reinterpret_cast<const void*>(barrier_kernel<Wrong::kNothing>));
  });
}
