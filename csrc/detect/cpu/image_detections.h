// NMS and the best rows of one image on the CPU, from the candidates that the scan found.
#pragma once

#include <algorithm>
#include <vector>

#include "candidates.h"
#include "kept_boxes.h"

namespace ssd_cuda {

template <typename T>
struct Detection {
  CandidateKey<T> key;
  Vec4<T> box;
};

// Greedy NMS in score order, one list per class (or one): a candidate is kept unless a better kept one of its
// list suppresses it. The order lets an image stop as soon as its rows are full.
template <typename T, typename S>
class ImageNms {
 public:
  ImageNms(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs, int64_t image)
      : options_(options), inputs_(inputs), image_(image), lists_(options.lists()) {}

  // Candidates in order; returns false when the rows are full.
  bool add(CandidateKey<T> key) {
    const int64_t index = candidate_index(key), label = index / inputs_.num_priors;
    List& list = lists_[options_.class_agnostic ? 0 : label - options_.first_label];
    if (list.seen == options_.top_k) return true;
    ++list.seen;
    const Vec4<T> box = candidate_box(options_, inputs_, image_, index % inputs_.num_priors);
    const T area = options_.rule.area(box);
    if (list.kept.suppress(options_.rule, box, area)) return true;
    list.kept.add(box, area);
    detections.push_back({key, box});
    return static_cast<int64_t>(detections.size()) < options_.rows;
  }

  // Labels whose list has had its top_k candidates get no more.
  void close_full_lists(CandidateSink<T>& sink) const {
    for (int64_t label = options_.first_label; label < options_.last_label; ++label) {
      const List& list = lists_[options_.class_agnostic ? 0 : label - options_.first_label];
      if (list.seen == options_.top_k) sink.close(label);
    }
  }

  std::vector<Detection<T>> detections;

 private:
  struct List {
    KeptBoxes<T> kept;
    int64_t seen = 0;
  };
  const DetectOptions<T>& options_;
  const DetectInputs<T, S>& inputs_;
  int64_t image_;
  std::vector<List> lists_;
};

// Gaussian soft-NMS of one sorted list: the best score is chosen, the others decay by exp(-iou^2 / sigma), and
// what falls to the threshold is dropped; ties go to the earlier candidate.
template <typename T, typename S>
void soft_nms_list(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs, int64_t image,
                   const std::vector<CandidateKey<T>>& keys,
                   std::vector<Detection<T>>& detections) {
  struct Item {
    Vec4<T> box;
    T area, score;
    uint32_t index;
  };
  std::vector<Item> items;
  for (CandidateKey<T> key : keys) {
    const uint32_t index = candidate_index(key);
    const Vec4<T> box = candidate_box(options, inputs, image, index % inputs.num_priors);
    items.push_back({box, options.rule.area(box), candidate_score(key), index});
  }
  for (int64_t chosen = 0; !items.empty() && chosen < options.rows; ++chosen) {
    const auto best = std::max_element(
        items.begin(), items.end(), [](const Item& a, const Item& b) { return a.score < b.score; });
    const Item item = *best;
    detections.push_back({candidate_key(item.score, item.index), item.box});
    items.erase(best);
    auto left = items.begin();
    for (Item& other : items) {
      const T overlap = iou(item.box, item.area, other.box, other.area, options.rule.eps,
                            options.rule.pixel_offset);
      if (overlap == overlap) {
        other.score =
            mul_rn(other.score, exp_fixed(div_rn(-mul_rn(overlap, overlap), options.soft_sigma)));
      }
      if (other.score > options.score_threshold) *left++ = other;
    }
    items.erase(left, items.end());
  }
}

template <typename T, typename S>
void write_image(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs, int64_t image,
                 const std::vector<Detection<T>>& detections, const DetectOutputs<T>& outputs) {
  const int64_t found = static_cast<int64_t>(detections.size());
  const int64_t count = std::min<int64_t>(options.rows, found);
  for (int64_t k = 0; k < count; ++k) {
    write_row(options, inputs, outputs, image, k, detections[k].key, detections[k].box);
  }
  for (int64_t k = count; k < options.rows; ++k) write_padding(options, outputs, image, k);
  outputs.counts[image] = count;
}

}  // namespace ssd_cuda
