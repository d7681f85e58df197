// Tiles of rows in shared memory, a tile a block: what a tile holds, its copies from global memory, and the zeros that a
// block writes beside them.
#pragma once

#include "common/cuda/copies.cuh"

namespace ssd_cuda {

// Threads of a tile of keys_kernel, and at most as many rows.
constexpr int kTileBlock = 128;

constexpr std::size_t kTileBytes = 48 * 1024;

// [B, P, K] in memory, strides in elements.
template <typename S>
struct RowsView {
  S* data;
  int64_t image_stride, row_stride, class_stride;

  __device__ __forceinline__ S* at(int64_t image, int64_t p) const {
    return data + image * image_stride + p * row_stride;
  }
};

// Rows a tile and pitch of keys_kernel: an odd pitch in 4- and 8-byte elements (2 modulo 4 in 2-byte ones) lets the
// threads of a warp read their rows without bank conflicts. An odd C in fp16 keeps its pitch: its copies are
// 16-byte vectors then, and the conflict is two-way. Pitch 0: rows are too long for shared memory and are read where
// they lie.
struct TilePlan {
  int rows, pitch;
  std::size_t bytes;  // with the gap of copy_run

  // An image of no priors has one empty tile.
  __host__ __device__ int64_t tiles(int64_t width) const {
    return width > 0 ? ceil_div<int64_t>(width, rows) : 1;
  }
};

template <typename S>
inline TilePlan plan_tile(int64_t classes) {
  int64_t pitch = classes % 2 == 1 ? classes : classes + 1;
  if (sizeof(S) == 2 && classes % 2 == 0) pitch = classes % 4 == 2 ? classes : classes + 2;
  const std::size_t row_bytes = static_cast<std::size_t>(pitch) * sizeof(S);
  if (row_bytes * 8 > kTileBytes) return {kTileBlock, 0, 0};
  std::size_t rows = kTileBytes / row_bytes / 8 * 8;
  if (rows > kTileBlock) rows = kTileBlock;
  return {static_cast<int>(rows), static_cast<int>(pitch), rows * row_bytes + sizeof(uint4)};
}

// fn(i / inner, i % inner) for the elements i of this thread; stepping both saves the division.
template <typename Fn>
__device__ __forceinline__ void for_each_pair(int count, int inner, const Fn& fn) {
  if (count == 0) return;  // nor is there an inner to divide by
  const int t = static_cast<int>(threadIdx.x);
  const int step_high = kTileBlock / inner, step_low = kTileBlock % inner;
  int high = t / inner, low = t % inner;
  for (int i = t; i < count; i += kTileBlock) {
    fn(high, low);
    high += step_high;
    low += step_low;
    if (low >= inner) {
      low -= inner;
      ++high;
    }
  }
}

// count elements from an address on, cut for vectors: head before the first 16-byte boundary, then whole packs.
template <typename S>
struct Packs {
  static constexpr int kPack = sizeof(uint4) / sizeof(S);
  int misaligned, head, packs, tail;  // tail: the first element after the packs

  __device__ Packs(const S* address, int count) {
    const int bytes = static_cast<int>(reinterpret_cast<uintptr_t>(address) % sizeof(uint4));
    misaligned = bytes / static_cast<int>(sizeof(S));
    head = misaligned == 0 ? 0 : kPack - misaligned;
    if (head > count) head = count;
    packs = (count - head) / kPack;
    tail = head + packs * kPack;
  }
};

// Whether rows lie in memory as they do in the tile: they are copied past the registers.
template <typename S>
__host__ __device__ inline bool is_run(const RowsView<const S>& view, int64_t classes, int pitch) {
  return pitch == classes && view.row_stride == classes && view.class_stride == 1;
}

// Copies count elements in vectors, to the tile behind a gap: the copy is as misaligned as the source, so the
// vectors of both fall together. Returns where it starts; the vectors are there after wait_copies(). They come from L2, and
// with kFromL2 the rest does too.
template <bool kFromL2, typename S>
__device__ __forceinline__ const S* copy_run(const S* source, int count, S* tile) {
  const Packs<S> cut(source, count);
  const int t = static_cast<int>(threadIdx.x);
  tile += cut.misaligned;
  for (int i = t; i < cut.packs; i += kTileBlock) {
    copy_async(reinterpret_cast<uint4*>(tile + cut.head) + i,
               reinterpret_cast<const uint4*>(source + cut.head) + i);
  }
  const auto load = [](const S* from) { return kFromL2 ? __ldcg(from) : *from; };
  if (t < cut.head) tile[t] = load(source + t);  // last, for these threads wait for what they load
  if (cut.tail + t < count) tile[cut.tail + t] = load(source + cut.tail + t);
  return tile;
}

// Copies rows [begin, begin + rows) of an image, coalesced in either layout. Returns where class 0 of the first row
// is; the rows lie pitch apart.
template <typename S>
__device__ const S* stage_tile(RowsView<const S> view, int64_t image, int64_t begin, int rows,
                               int classes, int pitch, S* tile) {
  const S* source = view.at(image, begin);
  const int count = rows * classes;
  if (view.row_stride == 1) {
    for_each_pair(count, rows, [&](int c, int row) {
      tile[row * pitch + c] = source[c * view.class_stride + row];
    });
    return tile;
  }
  if (is_run(view, classes, pitch)) {
    return copy_run<false>(source, count, tile);
  }
  for_each_pair(count, classes, [&](int row, int c) {
    tile[row * pitch + c] = source[row * view.row_stride + c * view.class_stride];
  });
  return tile;
}

// The packs of a block's part that one thread has left to clear: each kTileBlock behind the last, of `left` from `next` on.
struct ZeroPart {
  uint4* next;
  int left;

  __device__ __forceinline__ void step() {
    if (left <= 0) return;
    *next = uint4{0, 0, 0, 0};
    next += kTileBlock;
    left -= kTileBlock;
  }
  __device__ __forceinline__ void rest() {
#pragma unroll 1
    while (left > 0) step();
  }
};

// Zeros of count numbers, a part a block of the grid. data: aligned like uint4; null: none are wanted.
template <typename S>
struct ZeroedRows {
  static constexpr int kPack = sizeof(uint4) / sizeof(S);
  S* data = nullptr;
  int64_t count = 0;
  int64_t packs_a_block = 0;

  ZeroedRows() = default;
  ZeroedRows(S* memory, int64_t numbers, int64_t blocks)
      : data(memory),
        count(memory != nullptr ? numbers : 0),
        packs_a_block(blocks > 0 ? ceil_div(count / kPack, blocks) : 0) {}

  // Of this thread; what is no whole pack is cleared here.
  __device__ __forceinline__ ZeroPart part() const {
    const int t = static_cast<int>(threadIdx.x);
    const int64_t packs = count / kPack, begin = packs_a_block * blockIdx.x;
    const int64_t left = packs - begin < packs_a_block ? packs - begin : packs_a_block;
    if (blockIdx.x == 0 && packs * kPack + t < count) data[packs * kPack + t] = S(0.0f);
    return {reinterpret_cast<uint4*>(data) + begin + t, static_cast<int>(left) - t};
  }
};

}  // namespace ssd_cuda
