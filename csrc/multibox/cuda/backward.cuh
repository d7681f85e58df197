// Backward of the MultiBox loss. The gradient of the logits is zeros before: keys_kernel wrote them, or the binding
// did. A run of rows a block: which of them count and which have a gradient of loc, and zeros for the others; then four
// rows a warp that count read their logits again and write their gradient, from the first warp on, and a thread a row of
// d_loc that is not zeros, from the last warp on: where rows are few, other warps do the one and the other. Reads 8 B P
// and C |S| at each row that counts (about 3% of them), writes 4 B P |S| and as much as it reads of logits.
#pragma once

#include "loc_rows.cuh"
#include "row_gradient.cuh"

namespace ssd_cuda {

// Of backward_kernel. With 384 rows a block, whose warps then took more rows one after the other, B = 1 took 7.4 us on an
// H200 instead of 5.3, and 100 truths an image 52 instead of 41.
constexpr int kBackwardBlock = 128;
constexpr int kBackwardRows = 256;
constexpr int kBackwardEach = kBackwardRows / kBackwardBlock;

// What both directions read.
template <typename S, typename T>
struct LossInputs {
  RowsView<const S> loc;   // [B, P, 4]
  RowsView<const S> conf;  // [B, P, C]
  Targets<T> targets;
  MultiBoxRule rule;
  int64_t images, width;
};

// Whether the loss takes the general kernels.
template <typename S, typename T>
inline bool is_general(const LossInputs<S, T>& inputs) {
  return inputs.targets.terms.any() || is_box_loss(inputs.rule.loss.loc);
}

template <typename S>
struct LossGradients {
  RowsView<S> d_loc;   // [B, P, 4], dense in the order of loc, aligned like Vec4
  RowsView<S> d_conf;  // [B, P, C], zeros
};

template <typename S, typename T>
struct BackwardArgs : LossInputs<S, T>, LossSelection<T>, LossGradients<S> {};

// The rows of a block that count, and those whose loc has a gradient.
struct ChosenRows {
  int row[kBackwardRows], label[kBackwardRows], weight[kBackwardRows], localized[kBackwardRows];
  unsigned count, num_localized;
};

// Writes d_conf of the rows chosen.
template <bool kGeneral, typename S, typename T>
__device__ __forceinline__ void write_chosen(const BackwardArgs<S, T>& args,
                                             const ChosenRows& chosen, int64_t image, int64_t begin,
                                             T scale) {
  constexpr int kWarps = kBackwardBlock / 32;
  const int count = static_cast<int>(chosen.count);
  const int classes = static_cast<int>(args.rule.label.num_classes);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const ClassTerms<T>& terms = args.targets.terms;
  T total = 0;
  if constexpr (kGeneral) {
    for (int c = lane; c < classes; c += 32) total += terms.weight(c);
    total = sum_of_lanes(total);
  }
  const auto at = [&](int i) -> RowGradient<S, T, kGeneral> {
    const int64_t p = begin + chosen.row[i];
    return {args.conf.at(image, p),
            args.conf.class_stride,
            classes,
            chosen.label[i],
            static_cast<T>(chosen.weight[i]) * *args.grad_conf * scale,
            args.d_conf.at(image, p),
            args.d_conf.class_stride,
            terms,
            total};
  };
  if (classes > kShortRow) {
    for (int i = warp; i < count; i += kWarps) at(i).write_long();
    return;
  }
  for (int first = kTeams * warp; first < count; first += kTeams * kWarps) {
    const int i = first + lane / kTeam;
    at(i < count ? i : first).write_short(i < count);
  }
}

// Threads that a multiprocessor should hold: what the registers allow.
template <typename T, bool kGeneral>
constexpr int backward_threads() {
  if (sizeof(T) == 8) return 384;
  return kGeneral ? 768 : 1024;
}

template <typename S, typename T, bool kGeneral>
__global__ void __launch_bounds__(kBackwardBlock, backward_threads<T, kGeneral>() / kBackwardBlock)
    backward_kernel(BackwardArgs<S, T> args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ ChosenRows chosen;
  const auto runs = static_cast<unsigned>(ceil_div<int64_t>(args.width, kBackwardRows));
  const unsigned from_image = blockIdx.x / runs;
  const int64_t image = from_image, begin = int64_t{blockIdx.x - from_image * runs} * kBackwardRows;
  const int64_t left = args.width - begin;
  const int rows = static_cast<int>(left < kBackwardRows ? left : kBackwardRows);
  const int t = static_cast<int>(threadIdx.x);
  const T scale = args.scales[image];
  const RowCut<U> cut{static_cast<U>(args.cuts[2 * image]), args.cuts[2 * image + 1]};
  const auto owned = args.targets.owned(image);
  U keys[kBackwardEach];
  Mark marks[kBackwardEach];
#pragma unroll
  for (int j = 0; j < kBackwardEach; ++j) {  // all on their way before the first is looked at
    const int r = j * kBackwardBlock + t;
    const int64_t p = begin + (r < rows ? r : 0);
    keys[j] = args.keys[image * args.width + p];
    marks[j] = args.targets.mark(image, p);
  }
  if (t == 0) chosen.count = chosen.num_localized = 0;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kBackwardEach; ++j) {
    const int r = j * kBackwardBlock + t;
    if (r >= rows) continue;
    const int64_t p = begin + r;
    const Row row = args.targets.row(owned, marks[j], args.rule.label);
    const int weight = row_weight(row.kind, keys[j], p, cut, args.rule.loss.positives_twice);
    if (weight > 0 && scale != T(0)) {
      const unsigned place =
          atomicAdd(&chosen.count, 1u);  // the rows are independent: any order will do
      chosen.row[place] = r;
      chosen.label[place] = row.label;
      chosen.weight[place] = weight;
    }
    if (is_localized(row.kind) && scale != T(0)) {
      chosen.localized[atomicAdd(&chosen.num_localized, 1u)] = r;
    } else {
      clear_loc<S>(args, image, p);
    }
  }
  __syncthreads();
  write_chosen<kGeneral>(args, chosen, image, begin, scale);
  const int from_last = kBackwardBlock - 1 - t;
  for (int i = from_last; i < static_cast<int>(chosen.num_localized); i += kBackwardBlock) {
    write_loc<S, kGeneral>(args, image, begin + chosen.localized[i], scale);
  }
}

template <typename S, typename T>
inline cudaError_t launch_backward(const BackwardArgs<S, T>& args, cudaStream_t stream) {
  const int64_t blocks = args.images * ceil_div<int64_t>(args.width, kBackwardRows);
  const auto kernel = is_general(args) ? backward_kernel<S, T, true> : backward_kernel<S, T, false>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kBackwardBlock), 0, stream, args);
}

}  // namespace ssd_cuda
