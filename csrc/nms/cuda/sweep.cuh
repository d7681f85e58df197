// What the kept boxes of the first panel remove of the second, by looking at every pair: a search for those in reach is a
// chain of five loads, whose 12 us are more than so few pairs take.
//
// A block has 16 boxes, a lane each in either half of every warp; the warps deal the first panel among themselves, 32
// boxes at a time, whose kept ones stand first in shared memory. Two spans (nms_grid.h) tell of nearly every pair that it
// does not count; the others get the whole test.
//
// Memory: 4 T + 1 B of a box of the first panel for each block, from L2; 4 T + 4 B of a box of the second read, 4 T + 13 B of
// a listed one written. Work: 9 instructions a pair and lane, 45 for one of the 1% that are near; at most 1024 x 9216 pairs,
// in double half a millisecond where doubles are slow (7.5, 8.6, 12.0). Of 10,000 dense boxes 6.3 M instructions of warps, 44%
// of them to begin and to fill the words: 6 us by these, 9 to 14 on an H200, begun early.
#pragma once

#include "clear.cuh"
#include "suppressors.cuh"

namespace ssd_cuda {

constexpr int kNmsSweepBlock = 256;
constexpr int kNmsSweepWarps = kNmsSweepBlock / 32;
constexpr int kNmsSweepBoxes = 16;
static_assert(kNmsSweepBoxes <= kNmsClearManyBoxes);
constexpr int kNmsSweepHalves =
    32 / kNmsSweepBoxes;  // of a warp: every second box of the first panel each

// A box of the first panel as its lane reads it.
template <typename T>
struct NmsSwept {
  Vec4<T> box;
  bool kept;

  __device__ NmsSwept(const NmsArgs<T>& args, int j, int size)
      : box(args.box(min(j, size - 1))), kept(j < size && args.state(j) == NmsState::kKept) {}
};

// 32 of them, the kept ones first.
template <typename T>
struct NmsSweepWord {
  Vec4<T> spans[32], boxes[32];
  uint8_t lanes[32];

  // How many are kept. Called by a warp.
  __device__ int fill(const NmsArgs<T>& args, const NmsSwept<T>& own) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned keeps = __ballot_sync(kFullWarp, own.kept);
    const int count = __popc(keeps), before = __popc(keeps & ((1u << lane) - 1));
    const int place = own.kept ? before : count + lane - before;
    __syncwarp();  // nobody reads the last ones any more
    spans[place] = args.span(own.box);
    boxes[place] = own.box;
    lanes[place] = static_cast<uint8_t>(lane);
    __syncwarp();
    return count;
  }
};

// Whether one of the lane's part of the first panel, of `size` boxes, removes its box.
template <typename T>
__device__ bool nms_removed_by_part(const NmsArgs<T>& args, const NmsQuery<T>& query, bool active,
                                    int size, NmsSweepWord<T>& word) {
  constexpr int kAtOnce = 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int half = lane / kNmsSweepBoxes;
  const Vec4<T> span = args.span(query.box);
  bool removed = false;
  NmsSwept<T> next(args, warp * 32 + lane, size);
  for (int base = warp * 32; base < size; base += kNmsSweepBlock) {
    const int count = word.fill(args, next);
    next = NmsSwept<T>(args, base + kNmsSweepBlock + lane, size);
    for (int first = half; first < count; first += kAtOnce * kNmsSweepHalves) {
      uint32_t near = 0;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        near |= args.grid.near(word.spans[first + k * kNmsSweepHalves], span) ? 1u << k : 0u;
      }
      for (; active && !removed && near != 0; near &= near - 1) {
        const int k = first + (__ffs(static_cast<int>(near)) - 1) * kNmsSweepHalves;
        removed = k < count && query.overlaps(args, word.boxes[k]) &&
                  args.class_of(base + word.lanes[k]) == args.class_of(query.rank);
      }
    }
  }
  return removed;
}

// Blocks of a multiprocessor that registers must leave room for: all of a panel at once. Cards of 12.0 have room enough for
// them by 4, and with 5 some registers spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kNmsSweepFloats = 4;
#else
constexpr int kNmsSweepFloats = 5;
#endif
template <typename T>
constexpr int kNmsSweeping = sizeof(T) == 4 ? kNmsSweepFloats : 2;

template <typename T>
__global__ void __launch_bounds__(kNmsSweepBlock, kNmsSweeping<T>)
    nms_sweep_kernel(NmsArgs<T> args, NmsPanel panel) {
  after_previous_kernel();
  __shared__ NmsSweepWord<T> words[kNmsSweepWarps];
  __shared__ NmsClearBlock boxes;
  __shared__ uint32_t gone;
  const int t = static_cast<int>(threadIdx.x), own = t % kNmsSweepBoxes;
  if (t == 0) boxes.num_listed = 0, gone = 0;
  __syncthreads();
  const int first_panel = static_cast<int>(panel.begin), end = static_cast<int>(panel.end);
  const int first = first_panel + static_cast<int>(blockIdx.x) * kNmsSweepBoxes;
  const int p = min(first + own, end - 1);
  const bool active = first + own < end && args.state(p) != NmsState::kKept;  // not inert
  const bool removed =
      nms_removed_by_part(args, NmsQuery<T>(args, p), active, first_panel, words[t / 32]);
  const uint32_t lanes = __ballot_sync(kFullWarp, removed);
  if (t % 32 == 0 && lanes != 0) atomicOr(&gone, lanes | lanes >> kNmsSweepBoxes);
  // The first panel's kept boxes, for the panels after this one.
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNmsSweepBlock + t;
  if (panel.end < args.n && i < first_panel && args.state(i) == NmsState::kKept) nms_file(args, i);
  __syncthreads();
  if (t >= 32) return;
  const bool mine = active && t < kNmsSweepBoxes, goes = gone >> own & 1;
  if (mine && goes) args.set_state(p, NmsState::kRemoved);
  nms_append(mine && !goes, own, boxes.listed, &boxes.num_listed);
  __syncwarp();
  nms_list_open(args, panel, first, boxes);
}

// panel: the one behind the first.
template <typename T>
inline cudaError_t launch_nms_sweep(const NmsArgs<T>& args, const NmsPanel& panel,
                                    cudaStream_t stream) {
  return launch(nms_sweep_kernel<T>, nms_blocks(panel.end - panel.begin, kNmsSweepBoxes),
                dim3(kNmsSweepBlock), 0, stream, args, panel);
}

}  // namespace ssd_cuda
