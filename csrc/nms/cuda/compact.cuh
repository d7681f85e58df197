// Kept boxes in score order, their number, -1 in the rows after them. Each block counts all that are kept, 16 states a
// load, and so knows where its own ranks begin without a word from another block: N bytes a block, from L2.
#pragma once

#include "nms_args.cuh"

namespace ssd_cuda {

constexpr int kNmsCompactBlock = 512;
constexpr int kNmsCompactWarps = kNmsCompactBlock / 32;
constexpr int64_t kNmsCompactMost = 128;  // blocks

struct NmsOutput {
  const uint8_t* states;  // [N] kKept or kRemoved, by rank
  const int32_t* order;   // [N] box of each rank
  int64_t* keep;          // [rows]
  int64_t* count;         // []
  int64_t n, rows;

  int64_t blocks() const {
    const int64_t all = ceil_div<int64_t>(n > 0 ? n : 1, 2 * kNmsCompactBlock);
    return all < kNmsCompactMost ? all : kNmsCompactMost;
  }
};

// (sum of a, sum of b) over the block, for all its threads.
static __device__ __forceinline__ int2 nms_block_sums(int2 value, int2* warps) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value.x += __shfl_xor_sync(kFullWarp, value.x, offset);
    value.y += __shfl_xor_sync(kFullWarp, value.y, offset);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = {0, 0};
  for (int w = 0; w < kNmsCompactWarps; ++w) value.x += warps[w].x, value.y += warps[w].y;
  return value;
}

// How many are kept: .x before rank `begin`, a multiple of 16, .y in all.
static __device__ __forceinline__ int2 nms_count_kept(const NmsOutput& o, int64_t begin,
                                                      int2* warps) {
  static_assert(static_cast<int>(NmsState::kKept) == 1 &&
                static_cast<int>(NmsState::kRemoved) == 2);
  const auto* const words = reinterpret_cast<const uint4*>(o.states);
  int2 kept{0, 0};
#pragma unroll 4
  for (int64_t w = threadIdx.x; w < o.n / 16; w += kNmsCompactBlock) {
    const uint4 word = words[w];
    constexpr uint32_t kOnes = 0x01010101u;
    const int here = __popc(word.x & kOnes) + __popc(word.y & kOnes) + __popc(word.z & kOnes) +
                     __popc(word.w & kOnes);
    kept.x += w * 16 < begin ? here : 0;
    kept.y += here;
  }
  const int64_t last = o.n / 16 * 16 + threadIdx.x;
  if (last < o.n) kept.y += o.states[last] & 1;
  return nms_block_sums(kept, warps);
}

static __global__ void __launch_bounds__(kNmsCompactBlock) nms_compact_kernel(NmsOutput o) {
  after_previous_kernel();
  __shared__ int2 sums[kNmsCompactWarps];
  __shared__ int totals[kNmsCompactWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int64_t steps = ceil_div(ceil_div<int64_t>(o.n, gridDim.x), int64_t{kNmsCompactBlock});
  const int64_t begin = blockIdx.x * steps * kNmsCompactBlock;
  const int2 kept = nms_count_kept(o, begin, sums);
  int64_t at = kept.x;
  for (int64_t step = 0; step < steps && at < o.rows; ++step) {
    const int64_t rank = begin + step * kNmsCompactBlock + t;
    const bool mine = rank < o.n && static_cast<NmsState>(o.states[rank]) == NmsState::kKept;
    const uint32_t word = __ballot_sync(kFullWarp, mine);
    if (lane == 0) totals[warp] = __popc(word);
    __syncthreads();
    int64_t place = at + __popc(word & ((1u << lane) - 1));
    for (int w = 0; w < kNmsCompactWarps; ++w) {
      place += w < warp ? totals[w] : 0;
      at += totals[w];
    }
    if (mine && place < o.rows) o.keep[place] = o.order[rank];
    __syncthreads();  // before totals is overwritten
  }
  const int64_t written = min(int64_t{kept.y}, o.rows);
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kNmsCompactBlock + t;
  for (int64_t row = written + thread; row < o.rows; row += gridDim.x * int64_t{kNmsCompactBlock}) {
    o.keep[row] = -1;
  }
  if (thread == 0) *o.count = written;
}

inline cudaError_t launch_nms_compact(const NmsOutput& output, cudaStream_t stream) {
  return launch(nms_compact_kernel, dim3(static_cast<unsigned>(output.blocks())),
                dim3(kNmsCompactBlock), 0, stream, output);
}

}  // namespace ssd_cuda
