// The boxes that NMS has kept in one list, laid out for comparing one box with sixteen at a time.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "common/cpu/simd.h"
#include "common/math/nms_math.h"

namespace ssd_cuda {

template <typename T>
class KeptBoxes {
 public:
  void clear() { count_ = 0; }

  void add(Vec4<T> box, T area) {
    const int lane = static_cast<int>(count_ % kLanes);
    const std::size_t block = static_cast<std::size_t>(count_ / kLanes);
    if (lane == 0) {  // free lanes hold NaN, which suppresses nothing
      if (block == blocks_.size()) blocks_.emplace_back();
      for (T* side : blocks_[block].sides()) {
        std::fill_n(side, kLanes, std::numeric_limits<T>::quiet_NaN());
      }
    }
    Block& b = blocks_[block];
    b.x1[lane] = box.x, b.y1[lane] = box.y, b.x2[lane] = box.z, b.y2[lane] = box.w;
    b.area[lane] = area;
    ++count_;
  }

  // Whether a kept box suppresses this one: SuppressRule.
  bool suppress(const SuppressRule<T>& rule, Vec4<T> box, T area) const {
    bool found = false;
    const std::size_t blocks = static_cast<std::size_t>((count_ + kLanes - 1) / kLanes);
    if (blocks == 0) return false;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / sizeof(T)>;
      constexpr int kWidth = sizeof(V) / sizeof(T);
      for (std::size_t i = 0; i < blocks && !found; ++i) {
        const Block& b = blocks_[i];
        for (int lane = 0; lane < kLanes; lane += kWidth) {
          const Vec4<V> kept{load_pack<V>(b.x1 + lane), load_pack<V>(b.y1 + lane),
                             load_pack<V>(b.x2 + lane), load_pack<V>(b.y2 + lane)};
          const auto hit = rule.lanes(kept, load_pack<V>(b.area + lane), box, area);
          uint64_t words[sizeof(V) / 8];
          std::memcpy(words, &hit, sizeof hit);
          for (uint64_t word : words) found |= word != 0;
        }
      }
    });
    return found;
  }

 private:
  static constexpr int kLanes = 16;
  struct Block {
    T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
    std::array<T*, 5> sides() { return {x1, y1, x2, y2, area}; }
  };
  std::vector<Block> blocks_;
  int64_t count_ = 0;
};

}  // namespace ssd_cuda
