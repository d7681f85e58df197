// What the kernels of NMS share: panels of ranks, the state of every box, the lists that it is filed in.
#pragma once

#include "common/cuda/launch.cuh"
#include "nms/nms_grid.h"

namespace ssd_cuda {

constexpr int kNmsFirstPanel = 4096;  // boxes
constexpr int kNmsMostPanel = 32768;
constexpr int kNmsList = 32;              // slots of the list of earlier suppressors of a box
constexpr int kNmsListed = kNmsList - 1;  // suppressors in it: the first slot repeats one
constexpr int kNmsLevelWords = (nms::kLevels + 31) / 32;
constexpr int64_t kNmsCounters =
    kNmsLevelWords + 1;  // zero before gather: levels, the number of odd boxes

// Boxes in score order are decided in panels of ranks: two of `first` boxes, then each twice the last. fn(begin, end).
template <typename Fn>
inline void for_each_nms_panel(int64_t n, int64_t first, const Fn& fn) {
  int64_t size = first, begin = 0;
  for (int64_t panel = 0; begin < n; ++panel) {
    const int64_t end = begin + size < n ? begin + size : n;
    fn(begin, end);
    begin = end;
    if (panel > 0 && size < kNmsMostPanel) size *= 2;
  }
}

enum class NmsState : uint8_t { kOpen = 0, kKept = 1, kRemoved = 2 };

// Sizes, in elements, of what NmsArgs points to. Heads are powers of two, so that a hash is masked.
struct NmsPlan {
  int64_t first_panel, largest_panel = 0, kept_heads = 1, panel_heads = 1;

  explicit NmsPlan(int64_t n, int64_t first = kNmsFirstPanel) : first_panel(first) {
    for_each_nms_panel(n, first, [&](int64_t begin, int64_t end) {
      largest_panel = end - begin > largest_panel ? end - begin : largest_panel;
    });
    while (kept_heads < n) kept_heads *= 2;
    while (panel_heads < largest_panel) panel_heads *= 2;
  }
};

template <typename T>
struct NmsArgs {
  int64_t n;
  NmsPlan plan;
  SuppressRule<T> rule;
  nms::GridRule<T> grid;
  Vec4<T>* boxes;        // [N] in score order
  int64_t* classes;      // [N] in score order, or null: one class
  uint8_t* states;       // [N] NmsState
  int32_t* next;         // [N] the next box of a list, or -1
  int32_t* kept_heads;   // the first kept normal box of each bucket, or -1
  int32_t* panel_heads;  // the same of the panel at hand
  uint32_t* counters;    // [kNmsCounters]
  int32_t* odd;          // [N] ranks of the odd boxes, in any order
  int32_t* lists;        // [kNmsList, largest_panel] earlier suppressors of each box of the panel
  int32_t* found;        // [largest_panel] how many there are, listed or not

  // take(count, T{}) gives memory for count values of T, aligned for them; nothing is read from it before it is written.
  template <typename Take>
  NmsArgs(const NmsPlan& sizes, int64_t boxes_count, bool has_classes, const SuppressRule<T>& test,
          const Take& take)
      : n(boxes_count),
        plan(sizes),
        rule(test),
        grid(test),
        boxes(take(n, Vec4<T>{})),
        classes(has_classes ? take(n, int64_t{}) : nullptr),
        states(take(n, uint8_t{})),
        next(take(n, int32_t{})),
        kept_heads(take(plan.kept_heads, int32_t{})),
        panel_heads(take(plan.panel_heads, int32_t{})),
        counters(take(kNmsCounters, uint32_t{})),
        odd(take(n, int32_t{})),
        lists(take(kNmsList * plan.largest_panel, int32_t{})),
        found(take(plan.largest_panel, int32_t{})) {}

  __device__ Vec4<T> box(int64_t p) const { return boxes[p]; }
  __device__ int64_t class_of(int64_t p) const { return classes ? classes[p] : 0; }
  __device__ NmsState state(int64_t p) const { return static_cast<NmsState>(states[p]); }
  __device__ void set_state(int64_t p, NmsState s) const { states[p] = static_cast<uint8_t>(s); }
  // Where boxes that do not overlap count too, no place is out of reach: every box is odd.
  __device__ nms::Kind kind(Vec4<T> b, T area) const {
    return rule.any_pair() ? nms::Kind::kOdd : nms::kind_of(b, area, rule);
  }
  // [kNmsLevelWords] a bit for each level that a normal box has.
  __device__ uint32_t* levels() const { return counters; }
  __device__ uint32_t* num_odd() const { return counters + kNmsLevelWords; }
  __device__ int32_t& listed(int slot, int64_t in_panel) const {
    return lists[slot * plan.largest_panel + in_panel];
  }
};

}  // namespace ssd_cuda
