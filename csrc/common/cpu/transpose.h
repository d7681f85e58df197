// Rows of memory as columns in registers: pieces of rows are loaded side by side and transposed by shuffles.
#pragma once

#include <utility>

#include "half_simd.h"

namespace ssd_cuda {

// Of two packs: lanes whose bit D is clear from a, the others from b, moved so that squares of side D change
// places.
template <int D, int N, typename V, int... kLane>
SSD_SIMD_BODY inline void exchange(V& a, V& b, std::integer_sequence<int, kLane...>) {
  const V x = a, y = b;
  a = shuffle_packs<(kLane & D ? N + kLane - D : kLane)...>(x, y);
  b = shuffle_packs<(kLane & D ? N + kLane : kLane + D)...>(x, y);
}

// v[i][j] <-> v[j][i] in each square of side K that K packs hold side by side: K log2(K) shuffles.
template <int N, int K, int D = K / 2, typename V>
SSD_SIMD_BODY inline void transpose_packs(V* v) {
  SSD_UNROLL
  for (int i = 0; i < K; ++i) {
    if ((i & D) == 0) exchange<D, N>(v[i], v[i + D], std::make_integer_sequence<int, N>{});
  }
  if constexpr (D > 1) transpose_packs<N, K, D / 2>(v);
}

// N / K pieces of K numbers, of rows r, r + K, r + 2K ... of those that `row` names.
template <int N, int K, typename Row>
SSD_SIMD_BODY inline Pack<float, N> load_pieces(const Row& row, int r) {
  if constexpr (N == K) {
    return load_floats<Pack<float, N>>(row(r));
  } else {
    return concat_packs(load_pieces<N / 2, K>(row, r), load_pieces<N / 2, K>(row, r + N / 2));
  }
}

}  // namespace ssd_cuda
