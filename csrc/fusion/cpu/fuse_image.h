// Weighted boxes fusion of one image on the CPU: its labels one after the other, a box against all clusters of its label at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "common/cpu/lanes.h"
#include "common/cpu/parallel.h"
#include "common/cpu/simd.h"
#include "fusion/fusion_rule.h"

namespace ssd_cuda {

// The fused boxes of a label, by coordinate, with room for whole vectors.
template <typename T>
class FusedBoxes {
 public:
  void clear() {
    for (std::vector<T>* column : columns()) column->clear();
    count_ = 0;
  }
  void add(Vec4<T> box) {
    if (count_ % kLanes == 0) {  // free lanes hold NaN, whose IoU is above nothing
      for (std::vector<T>* column : columns()) {
        column->resize(static_cast<std::size_t>(count_ + kLanes),
                       std::numeric_limits<T>::quiet_NaN());
      }
    }
    put(count_++, box);
  }
  void put(int64_t k, Vec4<T> box) {
    x1_[k] = box.x, y1_[k] = box.y, x2_[k] = box.z, y2_[k] = box.w;
    area_[k] = box_area(box);
  }
  // The first of those that overlap the box most, if by more than the threshold; else -1.
  int64_t find(Vec4<T> box, T threshold) const {
    int64_t found = -1;
    const T area = box_area(box);
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      const V zero{};
      const Vec4<V> own{zero + box.x, zero + box.y, zero + box.z, zero + box.w};
      T best = threshold;
      for (int64_t k = 0; k < count_; k += kLanesOf<V>) {
        const Vec4<V> fused{load_pack<V>(&x1_[k]), load_pack<V>(&y1_[k]), load_pack<V>(&x2_[k]),
                            load_pack<V>(&y2_[k])};
        const V overlap = iou(fused, load_pack<V>(&area_[k]), own, zero + area);
        if (!any_lane(overlap > zero + best)) continue;
        for (int lane = 0; lane < kLanesOf<V>; ++lane) {
          if (overlap[lane] > best) best = overlap[lane], found = k + lane;
        }
      }
    });
    return found;
  }

 private:
  static constexpr int64_t kLanes = 16;
  std::array<std::vector<T>*, 5> columns() { return {&x1_, &y1_, &x2_, &y2_, &area_}; }
  std::vector<T> x1_, y1_, x2_, y2_, area_;
  int64_t count_ = 0;
};

template <typename T>
class ImageFusion {
 public:
  ImageFusion(const FusionRule<T>& rule, const FusionInputs<T>& inputs,
              const FusionOutputs<T>& outputs, int64_t image)
      : rule_(rule),
        labels_(inputs.labels + image * inputs.n),
        weights_(inputs.weights),
        n_(inputs.n),
        outputs_(outputs),
        image_(image),
        boxes_(inputs.boxes + image * n_, inputs.boxes + (image + 1) * n_),
        scores_(inputs.scores + image * n_, inputs.scores + (image + 1) * n_),
        owner_(static_cast<std::size_t>(n_), -1) {
    for (int64_t i = 0; i < n_; ++i) {
      if (inputs.real != nullptr && !inputs.real[image * n_ + i]) continue;
      if (!rule_.takes(boxes_[i], scores_[i])) continue;
      scores_[i] = mul_rn(scores_[i], weights_[i / rule_.each]);
      order_.push_back(static_cast<int32_t>(i));
    }
  }

  void run() {
    std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
      if (labels_[a] != labels_[b]) return labels_[a] < labels_[b];
      const auto x = ordered_key(scores_[a]), y = ordered_key(scores_[b]);
      return x != y ? x > y : a < b;
    });
    int64_t begin = 0;  // of the clusters of a label
    for (std::size_t i = 0; i < order_.size(); ++i) {
      const int32_t box = order_[i];
      if (i == 0 || labels_[box] != labels_[order_[i - 1]]) {
        fused_.clear();
        begin = static_cast<int64_t>(clusters_.size());
      }
      join(box, begin);
    }
    write();
  }

 private:
  void join(int32_t i, int64_t begin) {
    const int64_t k = fused_.find(boxes_[i], rule_.threshold);
    const T weight = weights_[i / rule_.each];
    if (k < 0) {
      owner_[i] = static_cast<int64_t>(clusters_.size());
      clusters_.push_back(FusedCluster<T>::of(boxes_[i], scores_[i], weight, i));
      fused_.add(boxes_[i]);
      return;
    }
    owner_[i] = begin + k;
    FusedCluster<T>& cluster = clusters_[begin + k];
    cluster.add(boxes_[i], scores_[i], weight);
    fused_.put(k, cluster.box);
  }

  // The weights of the models that each cluster has a box of, added in their order. Boxes of a model lie side by side.
  std::vector<T> present() const {
    std::vector<T> sums(clusters_.size(), T(0));
    if (!rule_.asks_models()) return sums;
    std::vector<int64_t> last(clusters_.size(), -1);
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t k = owner_[i], model = i / rule_.each;
      if (k < 0 || last[k] == model) continue;
      last[k] = model;
      sums[k] = add_rn(sums[k], weights_[model]);
    }
    return sums;
  }

  void write() const {
    const std::vector<T> sums = present();
    const auto count = static_cast<int64_t>(clusters_.size());
    std::vector<T> scores(clusters_.size());
    for (int64_t k = 0; k < count; ++k) scores[k] = rule_.score_of(clusters_[k], sums[k]);
    std::vector<int64_t> rows(clusters_.size());  // in the order of the result
    std::iota(rows.begin(), rows.end(), int64_t{0});
    std::sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
      const auto x = ordered_key(scores[a]), y = ordered_key(scores[b]);
      return x != y ? x > y : clusters_[a].first < clusters_[b].first;
    });
    std::vector<int64_t> row_of(clusters_.size(), -1);
    const int64_t kept = std::min(count, outputs_.rows), first = image_ * outputs_.rows;
    for (int64_t row = 0; row < kept; ++row) {
      const int64_t k = rows[row];
      row_of[k] = row;
      outputs_.boxes[first + row] = clusters_[k].box;
      outputs_.scores[first + row] = scores[k];
      outputs_.labels[first + row] = labels_[clusters_[k].first];
    }
    for (int64_t row = kept; row < outputs_.rows; ++row) {
      outputs_.boxes[first + row] = {};
      outputs_.scores[first + row] = 0;
      outputs_.labels[first + row] = -1;
    }
    outputs_.counts[image_] = kept;
    for (int64_t i = 0; i < n_; ++i) {
      outputs_.clusters[image_ * n_ + i] = owner_[i] < 0 ? -1 : row_of[owner_[i]];
    }
  }

  const FusionRule<T>& rule_;
  const int64_t* labels_;
  const T* weights_;
  int64_t n_;
  const FusionOutputs<T>& outputs_;
  int64_t image_;
  std::vector<Vec4<T>> boxes_;
  std::vector<T> scores_;       // weighted where a box takes part
  std::vector<int64_t> owner_;  // the cluster of each box
  std::vector<int32_t> order_;  // boxes that take part
  std::vector<FusedCluster<T>> clusters_;
  FusedBoxes<T> fused_;
};

template <typename T>
void fuse_images(const FusionRule<T>& rule, const FusionInputs<T>& inputs,
                 const FusionOutputs<T>& outputs) {
  parallel_grains(inputs.images, 1, [&](int64_t image, int64_t) {
    ImageFusion<T>(rule, inputs, outputs, image).run();
  });
}

}  // namespace ssd_cuda
