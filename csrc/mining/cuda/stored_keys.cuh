// Keys as the user stores them, as loaders of RowKeys.
#pragma once

#include "select.cuh"

namespace ssd_cuda {

// How keys are stored; computed as T = float, or double for kDouble.
enum class KeyType : int { kFloat = 0, kDouble = 1, kHalf = 2, kBFloat16 = 3 };

template <typename S>
constexpr KeyType key_type() {
  return std::is_same_v<S, double>          ? KeyType::kDouble
         : std::is_same_v<S, __half>        ? KeyType::kHalf
         : std::is_same_v<S, __nv_bfloat16> ? KeyType::kBFloat16
                                            : KeyType::kFloat;
}

// fn(keys from `first` on, in the type in which they are stored).
template <typename T, typename Fn>
__device__ __forceinline__ void with_stored(const void* keys, KeyType type, int64_t first,
                                            const Fn& fn) {
  if constexpr (sizeof(T) == 8) {
    fn(static_cast<const double*>(keys) + first);
  } else if (type == KeyType::kHalf) {
    fn(static_cast<const __half*>(keys) + first);
  } else if (type == KeyType::kBFloat16) {
    fn(static_cast<const __nv_bfloat16*>(keys) + first);
  } else {
    fn(static_cast<const float*>(keys) + first);
  }
}

template <typename T>
__device__ __forceinline__ void store_key(void* keys, KeyType type, int64_t i, T value) {
  if constexpr (sizeof(T) == 8) {
    static_cast<double*>(keys)[i] = value;
  } else {
    if (type == KeyType::kHalf) {
      static_cast<__half*>(keys)[i] = __half(value);
    } else if (type == KeyType::kBFloat16) {
      static_cast<__nv_bfloat16*>(keys)[i] = __nv_bfloat16(value);
    } else {
      static_cast<float*>(keys)[i] = value;
    }
  }
}

// A row's keys as they are.
template <typename T>
struct StoredKeys {
  const void* keys;
  KeyType type;
  int64_t first;  // of the row

  template <typename S>
  struct Source : Unlimited<Ordered<T>> {
    const S* row;
    __device__ __forceinline__ explicit Source(const S* keys) : row(keys) {}
    __device__ __forceinline__ T fetch(int64_t i) const { return static_cast<T>(row[i]); }
    __device__ __forceinline__ Ordered<T> key(T stored, bool) const { return ordered_key(stored); }
  };
  template <typename Fn>
  __device__ __forceinline__ void with(const Fn& fn) const {
    with_stored<T>(keys, type, first,
                   [&](const auto* row) { fn(Source<std::remove_cvref_t<decltype(*row)>>(row)); });
  }
};

// What was met while keys were made: once for each pass, where a row is loaded in each.
struct MinedCounts {
  unsigned positives = 0, excluded = 0;
};

// Two keys by a number that is 0 or 1. By `?:` nvcc makes a branch of it and moves the load of a key there, to be waited for
// after the others.
template <typename U>
__device__ __forceinline__ U key_of_two(unsigned char which, U zeroth, U first) {
  const U all = U{0} - static_cast<U>(which);
  return zeroth ^ ((zeroth ^ first) & all);
}

// A row's keys among which negatives are mined: a positive's, its own, or none.
template <typename T>
struct MinedKeys {
  using U = Ordered<T>;
  const void* keys;
  KeyType type;
  int64_t first;
  const bool *positive, *candidate;  // [B, P]; candidate: or null, all that are not positive
  U fill;                            // key of a positive
  MinedCounts& counts;

  struct Fetched {
    T stored;
    unsigned char positive;
  };
  template <typename S>
  struct Source {
    const S* row;
    const unsigned char *positive, *candidate;  // the bools as numbers
    U fill;
    MinedCounts& counts;

    __device__ __forceinline__ Fetched fetch(int64_t i) const {
      return {static_cast<T>(row[i]), positive[i]};
    }
    __device__ __forceinline__ U key(const Fetched& at, bool real) const {
      counts.positives += real ? at.positive : 0;
      return key_of_two(at.positive, ordered_key(at.stored), fill);
    }
    __device__ __forceinline__ bool is_limited() const { return candidate != nullptr; }
    __device__ __forceinline__ unsigned char may(int64_t i) const {
      return candidate[i] | positive[i];
    }
    __device__ __forceinline__ U limited(U key, unsigned char may, bool real) const {
      counts.excluded += real ? 1 - may : 0;
      return key_of_two(may, kExcluded<U>, key);
    }
  };
  template <typename Fn>
  __device__ __forceinline__ void with(const Fn& fn) const {
    const auto numbers = [&](const bool* flags) {
      return flags == nullptr ? nullptr : reinterpret_cast<const unsigned char*>(flags) + first;
    };
    with_stored<T>(keys, type, first, [&](const auto* row) {
      fn(Source<std::remove_cvref_t<decltype(*row)>>{row, numbers(positive), numbers(candidate),
                                                     fill, counts});
    });
  }
};

}  // namespace ssd_cuda
