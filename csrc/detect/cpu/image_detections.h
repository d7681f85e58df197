// NMS and the best rows of one image on the CPU, from the candidates that the scan found.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "candidate_boxes.h"
#include "candidates.h"
#include "kept_boxes.h"
#include "soft_nms/cpu/soft_list.h"

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
  bool add(std::span<const CandidateKey<T>> keys) {
    return each_candidate(options_, inputs_, image_, keys,
                          [&](CandidateKey<T> key, Vec4<T> box) { return add(key, box); });
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
  bool add(CandidateKey<T> key, Vec4<T> box) {
    const int64_t label = candidate_index(key) / inputs_.num_priors;
    const int64_t place = options_.class_agnostic ? 0 : label - options_.first_label;
    List& list = lists_[place];
    if (list.seen == options_.top_k) return true;
    ++list.seen;
    const SuppressRule<T> rule = options_.rule_of(place);
    const T area = rule.area(box);
    if (list.kept.suppress(rule, box, area)) return true;
    list.kept.add(box, area);
    detections.push_back({key, box});
    return static_cast<int64_t>(detections.size()) < options_.rows;
  }

  struct List {
    KeptBoxes<T> kept;
    int64_t seen = 0;
  };
  const DetectOptions<T>& options_;
  const DetectInputs<T, S>& inputs_;
  int64_t image_;
  std::vector<List> lists_;
};

// Soft-NMS of the sorted candidates of list `place` of the image; ties go to the earlier candidate.
template <typename T, typename S>
void soft_nms_list(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs, int64_t image,
                   int64_t place, std::span<const CandidateKey<T>> keys,
                   std::vector<Detection<T>>& detections) {
  const SuppressRule<T> rule = options.rule_of(place);
  SoftList<T> list(rule, options.soft, options.score_threshold_of(options.first_label + place));
  list.reserve(static_cast<int64_t>(keys.size()));
  each_candidate(options, inputs, image, keys, [&](CandidateKey<T> key, Vec4<T> box) {
    list.add(box, candidate_score(key), candidate_index(key));
    return true;
  });
  list.choose(options.rows, [&](uint32_t index, T score) {
    const CandidateKey<T> key = candidate_key(score, index);
    Vec4<T> box;
    candidate_boxes(options, inputs, image, &key, 1, &box);
    detections.push_back({key, box});
  });
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
