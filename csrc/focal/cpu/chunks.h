// The logits of an image in chunks of the order of memory, for the CPU: reading them as numbers of the arithmetic, finding the
// few that are not plain negatives, and the sum of a chunk.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cpu/half_simd.h"
#include "focal/focal_rule.h"
#include "multibox/cpu/softmax_rows.h"

namespace ssd_cuda {

constexpr int64_t kChunkRoom = kFocalChunk + 16;  // whole vectors are read and written

// The upper half of 32 numbers to the lower one, until one is left.
SSD_SIMD_BODY inline double join_lanes(double* lanes) {
  for (int half = 16; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// The sum of value(i) over i < count, in the order of kFocalLanes.
template <typename Value>
inline double sum_of_image(int64_t count, const Value& value) {
  double lanes[kFocalLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i % kFocalLanes] += value(i);
  double warps[kFocalLanes / 32];
  for (int64_t w = 0; w < kFocalLanes / 32; ++w) warps[w] = join_lanes(lanes + 32 * w);
  return join_lanes(warps);
}

// A run of a chunk: numbers [first, last) of an image, which belong to one row (or, where rows lie side by side, to one
// class of neighbouring rows).
struct ChunkRun {
  int64_t first, last;
  int64_t row, column;  // of the first
};

template <typename S>
struct ChunkedLogits {
  using T = acc_t<S>;
  Logits<S> logits;
  int64_t width;
  bool rows_inner;  // [B, C, P]: the numbers of a class lie side by side

  ChunkedLogits(const Logits<S>& source, int64_t rows)
      : logits(source),
        width(rows),
        rows_inner(source.class_stride != 1 && source.row_stride == 1) {}

  int64_t size() const { return width * logits.num_classes; }
  int64_t chunks() const { return (size() + kFocalChunk - 1) / kFocalChunk; }
  int64_t inner() const { return rows_inner ? width : logits.num_classes; }

  // fn(run) for the runs of numbers [begin, end) of an image.
  template <typename Fn>
  SSD_SIMD_BODY void each_run(int64_t begin, int64_t end, const Fn& fn) const {
    const int64_t length = inner();
    int64_t outer = begin / length, at = begin % length;
    for (int64_t i = begin; i < end; ++outer, at = 0) {
      const int64_t last = std::min(end, i + length - at);
      fn(rows_inner ? ChunkRun{i, last, at, outer} : ChunkRun{i, last, outer, at});
      i = last;
    }
  }

  // Numbers [begin, end) of an image, one chunk or less: where they lie, or in the buffer, [kChunkRoom].
  template <typename V>
  SSD_SIMD_BODY const T* load(int64_t image, int64_t begin, int64_t end, T* buffer) const {
    const S* base = logits.data + image * logits.image_stride;
    const bool together = rows_inner
                              ? logits.class_stride == width
                              : logits.class_stride == 1 && logits.row_stride == logits.num_classes;
    if (together && end + kLanesOf<V> <= size()) {  // whole vectors stay inside the image
      if constexpr (std::is_same_v<S, T>) {
        return base + begin;
      } else {
        for (int64_t i = begin; i < end; i += kLanesOf<V>) {
          store_pack(buffer + (i - begin), load_floats<V>(base + i));
        }
        return buffer;
      }
    }
    each_run(begin, end, [&](const ChunkRun& run) SSD_SIMD_BODY {
      const S* from = base + run.row * logits.row_stride + run.column * logits.class_stride;
      const int64_t step = rows_inner ? logits.row_stride : logits.class_stride;
      for (int64_t i = run.first; i < run.last; ++i) {
        buffer[i - begin] = static_cast<T>(from[(i - run.first) * step]);
      }
    });
    for (int64_t i = end - begin; i % kLanesOf<V> != 0; ++i) buffer[i] = 0;
    return buffer;
  }

  // fn(place in the chunk, column of its row) for the numbers that are no plain negatives of the sigmoid form. columns: [P].
  template <typename Fn>
  SSD_SIMD_BODY void each_special(const int32_t* columns, int64_t begin, int64_t end,
                                  const Fn& fn) const {
    each_run(begin, end, [&](const ChunkRun& run) SSD_SIMD_BODY {
      if (rows_inner) {
        for (int64_t i = run.first; i < run.last; ++i) {
          const int32_t own = columns[run.row + (i - run.first)];
          if (own == run.column || own < kNoColumn) fn(i - begin, own);
        }
        return;
      }
      const int32_t own = columns[run.row];
      const int64_t place = run.first + (own - run.column);
      if (own >= 0 && place >= run.first && place < run.last) fn(place - begin, own);
      for (int64_t i = run.first; own < kNoColumn && i < run.last; ++i) fn(i - begin, own);
    });
  }
};

// The sum of a chunk's losses, in the order of kFocalChunk. losses: [kChunkRoom], count of them.
template <typename V, typename T>
SSD_SIMD_BODY inline double sum_of_chunk(T* losses, int64_t count) {
  constexpr int kParts = 32 / kLanesOf<V>;
  const int64_t end = (count + 31) / 32 * 32;
  for (int64_t i = count; i < end; ++i) losses[i] = 0;
  V sums[kParts] = {};
  for (int64_t i = 0; i < end; i += 32) {
    SSD_UNROLL
    for (int u = 0; u < kParts; ++u) sums[u] += load_pack<V>(losses + i + u * kLanesOf<V>);
  }
  double lanes[32];
  for (int lane = 0; lane < 32; ++lane) {
    lanes[lane] = static_cast<double>(sums[lane / kLanesOf<V>][lane % kLanesOf<V>]);
  }
  return join_lanes(lanes);
}

}  // namespace ssd_cuda
