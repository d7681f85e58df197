// The fused post-process on the CPU, of a batch.
//
// Two ways, with the same result. Where few rows are wanted (the usual case) the candidates of an image, of all
// classes together, go through NMS in score order until the rows are full: the scan then keeps only the best few
// thousand, and in the rare case that they do not fill the rows it is repeated for the next ones. Where every
// survivor is wanted, or scores decay (soft-NMS), each class has its pool of top_k and its own NMS.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "common/cpu/parallel.h"
#include "image_detections.h"

namespace ssd_cuda {

constexpr int64_t kTasks = 16;            // about so many scans run side by side
constexpr int64_t kSmallestSlice = 1024;  // priors
constexpr int64_t kFewRows = 4096;        // up to this many output rows, the first way
constexpr int64_t kSmallestWindow = 1024;
constexpr int64_t kFirstSorted = 256;

template <typename T, typename S>
class CpuDetect {
 public:
  CpuDetect(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
            const DetectOutputs<T>& outputs)
      : options_(options),
        inputs_(inputs),
        outputs_(outputs),
        scanner_(options, inputs),
        slice_(std::max(kSmallestSlice, inputs.num_priors * inputs.images / kTasks)),
        slices_((inputs.num_priors + slice_ - 1) / slice_),
        few_rows_(!options.is_soft() && options.rows <= kFewRows) {}

  void run() {
    if (slices_ == 0 || options_.labels() <= 0) {
      for (int64_t b = 0; b < inputs_.images; ++b) write_image(options_, inputs_, b, {}, outputs_);
      return;
    }
    const int64_t keep = few_rows_ ? window() : options_.top_k;
    const bool pool_per_label = !few_rows_ && !options_.class_agnostic;
    std::vector<CandidateSink<T>> sinks(
        inputs_.images * slices_,
        CandidateSink<T>(options_, inputs_.num_priors, inputs_.num_classes, keep, pool_per_label));
    parallel_grains(inputs_.images * slices_, 1, [&](int64_t task, int64_t) {
      const int64_t begin = task % slices_ * slice_;
      const int64_t end = std::min(begin + slice_, inputs_.num_priors);
      scanner_.scan(task / slices_, begin, end, few_rows_, sinks[task]);
    });
    if (few_rows_) {
      parallel_grains(inputs_.images, 1,
                      [&](int64_t image, int64_t) { windows(image, &sinks[image * slices_]); });
    } else {
      every_list(sinks);
    }
  }

 private:
  int64_t window() const { return std::max(kSmallestWindow, 4 * options_.rows); }

  // The best of all slices; true when something beyond them was left out.
  bool merge(CandidateSink<T>* sinks, int64_t pool, int64_t keep, CandidatePool<T>& merged) const {
    bool left_out = false;
    merged = CandidatePool<T>(keep);
    for (int64_t s = 0; s < slices_; ++s) merged.narrow(sinks[s].pools[pool].bound());
    for (int64_t s = 0; s < slices_; ++s) {
      CandidatePool<T>& part = sinks[s].pools[pool];
      left_out |= part.was_cut();
      for (CandidateKey<T> key : part.keys) merged.add(key);
    }
    merged.finish();
    return left_out || merged.was_cut();
  }

  // False when the rows are full. Most often the best few hundred fill them, so the others are not sorted until they are asked for.
  bool add_sorted(std::vector<CandidateKey<T>>& keys, ImageNms<T, S>& nms) const {
    const int64_t some = std::max(kFirstSorted, 2 * options_.rows);
    for (auto first = keys.begin(), next = first; first != keys.end(); first = next) {
      next += std::min<int64_t>(some, keys.end() - first);
      if (next != keys.end()) std::nth_element(first, next, keys.end());
      std::sort(first, next);
      if (!nms.add({first, next})) return false;
    }
    return true;
  }

  void windows(int64_t image, CandidateSink<T>* sinks) const {
    ImageNms<T, S> nms(options_, inputs_, image);
    CandidatePool<T> found(0);
    int64_t keep = window();
    bool more = merge(sinks, 0, keep, found);
    while (true) {
      if (!add_sorted(found.keys, nms) || !more) break;
      keep *= 8;
      CandidateSink<T> next(options_, inputs_.num_priors, inputs_.num_classes, keep, false);
      next.after_any = true;
      next.after = found.keys.back();
      nms.close_full_lists(next);
      scanner_.scan(image, 0, inputs_.num_priors, true, next);
      found = std::move(next.pools[0]);
      found.finish();
      more = found.was_cut();
    }
    write_image(options_, inputs_, image, nms.detections, outputs_);
  }

  void every_list(std::vector<CandidateSink<T>>& sinks) const {
    const int64_t lists = options_.lists();
    std::vector<std::vector<Detection<T>>> kept(inputs_.images * lists);
    parallel_grains(inputs_.images * lists, 1, [&](int64_t task, int64_t) {
      const int64_t image = task / lists;
      CandidatePool<T> pool(0);
      merge(&sinks[image * slices_], task % lists, options_.top_k, pool);
      pool.sort();
      if (options_.is_soft()) {
        soft_nms_list(options_, inputs_, image, task % lists, pool.keys, kept[task]);
      } else {
        ImageNms<T, S> nms(options_, inputs_, image);
        nms.add(pool.keys);
        kept[task] = std::move(nms.detections);
      }
    });
    parallel_grains(inputs_.images, 1, [&](int64_t image, int64_t) {
      std::vector<Detection<T>> all;
      for (int64_t list = 0; list < lists; ++list) {
        const auto& part = kept[image * lists + list];
        all.insert(all.end(), part.begin(), part.end());
      }
      std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
      write_image(options_, inputs_, image, all, outputs_);
    });
  }

  const DetectOptions<T>& options_;
  const DetectInputs<T, S>& inputs_;
  const DetectOutputs<T>& outputs_;
  RowScanner<T, S> scanner_;
  int64_t slice_, slices_;  // priors of a slice, slices of an image
  bool few_rows_;
};

}  // namespace ssd_cuda
