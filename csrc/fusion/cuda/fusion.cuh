// Weighted boxes fusion: a block a label of an image, then the rows of all labels.
//
//   take   a thread a box: the box as it takes part, the key of its weighted score (0: it does not)
//   fuse   the block of the first box of a label that takes part; the others end. It gathers the label's boxes in index
//          order, at the place that the number of boxes of lower labels gives, ranks them by counting better keys, and lets
//          one after the other look for its cluster, all threads at clusters of their own: one barrier finds the best,
//          one more lets its fused box be seen. The work of a box depends on those before it, so a label is one block's.
//   place  a thread a box: the row of the cluster that it began is the number of better clusters of its image
//   follow a thread a box: the row of the cluster that it went to
//
// Bytes: 5 T a cluster of the label read for each box, from L2 and L1; 14 T + 40 B a box of memory.
#pragma once

#include "common/cuda/values.cuh"
#include "fusion/fusion_rule.h"

namespace ssd_cuda {

constexpr int kFuseBlock = 128;
constexpr int kFuseWarps = kFuseBlock / 32;

template <typename T>
struct FusionArgs {
  FusionRule<T> rule;
  FusionInputs<T> in;
  FusionOutputs<T> to;
  T* weights;  // [models]
  // [B, N] by index:
  Vec4<T>* taken;
  Ordered<T>* keys;  // of the weighted score, 0: the box takes no part
  T* weighted;
  int32_t* leader;      // the box that began its cluster
  Ordered<T>* result;   // of a leader: the key of its cluster's score, else 0
  Vec4<T>* result_box;  // of a leader
  int32_t* row;         // of a leader
  // [B, N] by label, from the place of each label on:
  int32_t* members;  // in index order
  int32_t* order;    // by score
  FusedCluster<T>* clusters;

  template <typename Take>
  FusionArgs(const FusionRule<T>& with, const FusionInputs<T>& inputs,
             const FusionOutputs<T>& outputs, const Take& take)
      : rule(with), in(inputs), to(outputs), weights(take(with.models, T{})) {
    const int64_t all = inputs.images * inputs.n;
    taken = take(all, Vec4<T>{});
    keys = take(all, Ordered<T>{});
    weighted = take(all, T{});
    leader = take(all, int32_t{});
    result = take(all, Ordered<T>{});
    result_box = take(all, Vec4<T>{});
    row = take(all, int32_t{});
    members = take(all, int32_t{});
    order = take(all, int32_t{});
    clusters = take(all, FusedCluster<T>{});
  }
};

template <typename T>
__global__ void __launch_bounds__(kFuseBlock) fusion_take_kernel(FusionArgs<T> args) {
  after_previous_kernel();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kFuseBlock) + threadIdx.x;
  if (i >= args.in.images * args.in.n) return;
  Vec4<T> box = args.in.boxes[i];
  const T score = args.in.scores[i];
  const bool taken = (args.in.real == nullptr || args.in.real[i]) && args.rule.takes(box, score);
  const T weighted = mul_rn(score, args.weights[i % args.in.n / args.rule.each]);
  args.taken[i] = box;
  args.keys[i] = taken ? ordered_key(weighted) : Ordered<T>(0);
  args.weighted[i] = weighted;
  args.leader[i] = -1;
  args.result[i] = 0;
}

template <typename T>
struct FoundCluster {
  T overlap;
  int at;  // -1: none
  __device__ __forceinline__ void take(T other, int other_at) {
    if (other_at < 0) return;
    if (at < 0 || other > overlap || (other == overlap && other_at < at)) {
      overlap = other, at = other_at;
    }
  }
};

template <typename T>
struct FuseShared {
  FoundCluster<T> found[kFuseWarps];
  unsigned counts[kFuseWarps];
};

// The boxes of an image as a block sees them.
template <typename T>
struct ImageLabels {
  const int64_t* labels;
  const Ordered<T>* keys;
  int64_t n;
  __device__ __forceinline__ bool is(int64_t j, int64_t label) const {
    return keys[j] != 0 && labels[j] == label;
  }
  // Whether a box before `self` has its label. All threads.
  __device__ __forceinline__ bool has_before(int64_t self, int64_t label) const {
    for (int64_t begin = 0; begin < self; begin += kFuseBlock) {
      const int64_t j = begin + threadIdx.x;
      if (__syncthreads_or(j < self && is(j, label))) return true;
    }
    return false;
  }
  // How many boxes have lower labels. All threads.
  __device__ __forceinline__ int64_t lower(int64_t label) const {
    int64_t sum = 0;
    for (int64_t begin = 0; begin < n; begin += kFuseBlock) {
      const int64_t j = begin + threadIdx.x;
      sum += __syncthreads_count(j < n && keys[j] != 0 && labels[j] < label);
    }
    return sum;
  }
  // Those of the label, in index order; returns how many. All threads.
  __device__ __forceinline__ int gather(int64_t self, int64_t label, int32_t* members,
                                        unsigned* counts) const {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int found = 0;
    for (int64_t begin = self; begin < n; begin += kFuseBlock) {
      const int64_t j = begin + threadIdx.x;
      const bool mine = j < n && is(j, label);
      const unsigned votes = __ballot_sync(kFullWarp, mine);
      if (lane == 0) counts[warp] = static_cast<unsigned>(__popc(votes));
      __syncthreads();
      unsigned before = 0, all = 0;
      for (unsigned w = 0; w < kFuseWarps; ++w) {
        before += w < warp ? counts[w] : 0;
        all += counts[w];
      }
      const unsigned place = before + static_cast<unsigned>(__popc(votes & ((1u << lane) - 1)));
      if (mine) members[found + place] = static_cast<int32_t>(j);
      found += static_cast<int>(all);
      __syncthreads();  // before counts are written again
    }
    return found;
  }
};

// The cluster that a box overlaps most, the same on every thread. One barrier, and another one before the next call.
template <typename T>
__device__ __forceinline__ int find_cluster(const FusedCluster<T>* clusters, int count, Vec4<T> box,
                                            T threshold, FoundCluster<T>* buffer) {
  FoundCluster<T> best{threshold, -1};
  const T area = box_area(box);
  for (int k = threadIdx.x; k < count; k += kFuseBlock) {
    const Vec4<T> fused = clusters[k].box;
    const T overlap = iou(fused, box_area(fused), box, area);
    if (overlap > best.overlap) best = {overlap, k};
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const T overlap = __shfl_xor_sync(kFullWarp, best.overlap, offset);
    const int at = __shfl_xor_sync(kFullWarp, best.at, offset);
    best.take(overlap, at);
  }
  if (threadIdx.x % 32 == 0) buffer[threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < kFuseWarps; ++w) best.take(buffer[w].overlap, buffer[w].at);
  return best.at;
}

// The weights of the models that have a box in the cluster of a leader, added in their order.
template <typename T>
__device__ __forceinline__ T present_models(const FusionArgs<T>& args, const int32_t* members,
                                            const int32_t* leader, int count, int32_t first) {
  T sum = 0;
  int64_t last = -1;
  for (int m = 0; m < count; ++m) {
    const int64_t model = members[m] / args.rule.each;
    if (leader[members[m]] != first || model == last) continue;
    last = model;
    sum = add_rn(sum, args.weights[model]);
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kFuseBlock) fusion_fuse_kernel(FusionArgs<T> args) {
  __shared__ FuseShared<T> shared;
  after_previous_kernel();
  const int64_t image = blockIdx.x / args.in.n, self = blockIdx.x % args.in.n,
                base = image * args.in.n;
  if (args.keys[base + self] == 0) return;
  const ImageLabels<T> boxes{args.in.labels + base, args.keys + base, args.in.n};
  const int64_t label = boxes.labels[self];
  if (boxes.has_before(self, label)) return;
  const int64_t first = base + boxes.lower(label);
  int32_t *members = args.members + first, *order = args.order + first;
  int32_t* leader = args.leader + base;
  FusedCluster<T>* clusters = args.clusters + first;
  const int size = boxes.gather(self, label, members, shared.counts);
  for (int m = threadIdx.x; m < size; m += kFuseBlock) {
    const Ordered<T> own = boxes.keys[members[m]];
    int rank = 0;
    for (int j = 0; j < size; ++j) {
      const Ordered<T> key = boxes.keys[members[j]];
      rank += key > own || (key == own && j < m);
    }
    order[rank] = members[m];
  }
  __syncthreads();
  int count = 0;
  for (int step = 0; step < size; ++step) {
    const int32_t i = order[step];
    const Vec4<T> box = args.taken[base + i];
    const int k = find_cluster(clusters, count, box, args.rule.threshold, shared.found);
    if (threadIdx.x == 0) {
      const T score = args.weighted[base + i], weight = args.weights[i / args.rule.each];
      if (k < 0) {
        clusters[count] = FusedCluster<T>::of(box, score, weight, i);
        leader[i] = i;
      } else {
        clusters[k].add(box, score, weight);
        leader[i] = clusters[k].first;
      }
    }
    count += k < 0;
    __syncthreads();  // the cluster is seen by all
  }
  for (int k = threadIdx.x; k < count; k += kFuseBlock) {
    const FusedCluster<T>& cluster = clusters[k];
    const T present =
        args.rule.asks_models() ? present_models(args, members, leader, size, cluster.first) : T(0);
    args.result[base + cluster.first] = ordered_key(args.rule.score_of(cluster, present));
    args.result_box[base + cluster.first] = cluster.box;
  }
}

// Blocks of an image lie side by side: `each` of them.
template <typename T>
__global__ void __launch_bounds__(kFuseBlock)
    fusion_place_kernel(FusionArgs<T> args, int64_t each) {
  using U = Ordered<T>;
  __shared__ U tile[kFuseBlock];
  after_previous_kernel();
  const int64_t image = blockIdx.x / each, base = image * args.in.n, first = image * args.to.rows;
  const int64_t i = blockIdx.x % each * kFuseBlock + threadIdx.x;
  const U own = i < args.in.n ? args.result[base + i] : 0;
  int64_t row = 0, total = 0;
  for (int64_t begin = 0; begin < args.in.n; begin += kFuseBlock) {
    const int64_t j = begin + threadIdx.x;
    tile[threadIdx.x] = j < args.in.n ? args.result[base + j] : 0;
    __syncthreads();
    for (int t = 0; t < kFuseBlock; ++t) {
      const U key = tile[t];
      total += key != 0;
      row += key > own || (key == own && begin + t < i);
    }
    __syncthreads();
  }
  if (own != 0) {
    args.row[base + i] = row < args.to.rows ? static_cast<int32_t>(row) : -1;
    if (row < args.to.rows) {
      args.to.boxes[first + row] = args.result_box[base + i];
      args.to.scores[first + row] = key_value<T>(own);
      args.to.labels[first + row] = args.in.labels[base + i];
    }
  }
  if (i >= total && i < args.to.rows) {
    args.to.boxes[first + i] = Vec4<T>{};
    args.to.scores[first + i] = 0;
    args.to.labels[first + i] = -1;
  }
  if (i == 0) args.to.counts[image] = total < args.to.rows ? total : args.to.rows;
}

template <typename T>
__global__ void __launch_bounds__(kFuseBlock) fusion_follow_kernel(FusionArgs<T> args) {
  after_previous_kernel();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kFuseBlock) + threadIdx.x;
  if (i >= args.in.images * args.in.n) return;
  const int32_t leader = args.leader[i];
  args.to.clusters[i] = leader < 0 ? -1 : args.row[i - i % args.in.n + leader];
}

// weights: [models] on the host.
template <typename T>
inline cudaError_t launch_fusion(const FusionArgs<T>& args, const T* weights, cudaStream_t stream) {
  const int64_t all = args.in.images * args.in.n;
  const auto blocks = [](int64_t count) { return dim3(static_cast<unsigned>(count)); };
  const dim3 threads(kFuseBlock);
  cudaError_t error = put_values(weights, args.rule.models, args.weights, stream);
  if (error == cudaSuccess) {
    error = launch(fusion_take_kernel<T>, blocks(ceil_div<int64_t>(all, kFuseBlock)), threads, 0,
                   stream, args);
  }
  if (error == cudaSuccess) {
    error = launch(fusion_fuse_kernel<T>, blocks(all), threads, 0, stream, args);
  }
  if (error != cudaSuccess) return error;
  const int64_t most = args.in.n > args.to.rows ? args.in.n : args.to.rows;
  const int64_t each = most > 0 ? ceil_div<int64_t>(most, kFuseBlock) : 1;  // writes the count
  error =
      launch(fusion_place_kernel<T>, blocks(args.in.images * each), threads, 0, stream, args, each);
  if (error != cudaSuccess) return error;
  return launch(fusion_follow_kernel<T>, blocks(ceil_div<int64_t>(all, kFuseBlock)), threads, 0,
                stream, args);
}

}  // namespace ssd_cuda
