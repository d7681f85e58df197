// What the kernels of NMS share: panels of ranks, the state of every box, the cells that boxes are filed in.
#pragma once

#include "common/cuda/launch.cuh"
#include "nms/nms_grid.h"

namespace ssd_cuda {

constexpr int kNmsDecideBlock = 128;  // threads
// Lanes that search for one box after the first panel, where boxes are few and where they are many: more lanes end sooner,
// fewer take fewer instructions. In clear, which tests a box against the kept ones, and in decide, which looks for those
// that suppress it (32: no other box of the warp waits).
constexpr int kNmsClearLanes = 16, kNmsClearManyLanes = 8;
constexpr int kNmsDecideLanes = 32, kNmsDecideManyLanes = 8;
constexpr int kNmsFewWaves = 2;      // few: their lanes are so many waves of threads at most
constexpr int kNmsCellsAtOnce = 24;  // of a box, whose bins are on their way together
constexpr int kNmsSlotsAtOnce = 16;  // of a box, that are on their way together
constexpr int kNmsFinerCells = 2;
constexpr int kNmsList = 32;            // earlier suppressors that a box remembers
constexpr int kNmsMore = 2 * kNmsList;  // beside their number: there may be others
constexpr int kNmsMostPanel = 32768;
constexpr int kNmsLevelWords = (nms::kLevels + 31) / 32;

// A cell is as long as the longest box of its level over 2^this. The lower the threshold the farther a search reaches.
template <typename T>
inline int nms_finer_cells(T threshold) {
  return threshold >= T(0.25) ? kNmsFinerCells : threshold >= T(0.125) ? kNmsFinerCells / 2 : 0;
}

// What a test may choose.
struct NmsTuning {
  int64_t first_panel = 1024;  // boxes, up to kNmsMostPanel / 2
  int64_t growth = 9;          // of each later panel
  int attempts = 64;           // looks at its suppressors before a box is left to be resolved
  int64_t merge_once = 32;     // up to so many sorted tiles are merged in one pass
  int64_t merge_most = 32;     // tiles of a group where passes are several
  int64_t at_once = 0;         // threads of the device that run at once; 0: 768 a multiprocessor
};

// Boxes in score order are decided in panels of ranks, each longer than the last; so few that two of the first size hold
// them are one. fn(begin, end).
template <typename Fn>
inline void for_each_nms_panel(int64_t n, const NmsTuning& tuning, const Fn& fn) {
  int64_t size = n <= 2 * tuning.first_panel ? n : tuning.first_panel;
  for (int64_t begin = 0; begin < n;) {
    const int64_t end = begin + size < n ? begin + size : n;
    fn(begin, end);
    begin = end;
    size = size * tuning.growth < kNmsMostPanel ? size * tuning.growth : kNmsMostPanel;
  }
}

// Ranks [begin, end), where the panel before them begins, and which of the two open bins and lists they have.
struct NmsPanel {
  int64_t begin, end, last_begin;
  int parity;
};

enum class NmsState : uint8_t { kOpen = 0, kKept = 1, kRemoved = 2 };

// Sizes, in elements, of what NmsArgs points to.
struct NmsPlan {
  NmsTuning tuning;
  int64_t first_panel = 0, largest_later = 0;  // boxes
  int64_t bins = 0;  // a power of two, so that a hash is masked; 0: one panel, which needs none

  explicit NmsPlan(int64_t n, const NmsTuning& chosen = {}) : tuning(chosen) {
    int64_t panels = 0;
    for_each_nms_panel(n, tuning, [&](int64_t begin, int64_t end) {
      int64_t& most = begin == 0 ? first_panel : largest_later;
      most = end - begin > most ? end - begin : most;
      ++panels;
    });
    if (panels < 2) return;
    for (bins = 1; bins < n;) bins *= 2;
    if (tuning.at_once == 0) tuning.at_once = 768 * multiprocessors();
  }
};

// Slots [start, start + size) hold the boxes of a bin.
struct alignas(8) NmsBin {
  int32_t start, size;
};

// Zero before the first kernel.
struct alignas(8) NmsCounters {
  uint32_t has_level[kNmsLevelWords];  // a bit for each level that a normal box has
  uint32_t num_odd, num_levels;
  uint32_t slots;      // of all bins so far
  uint32_t undecided;  // boxes of a panel
  uint32_t listed[2];  // boxes in NmsArgs::panel_list, of this panel and of the last one in turns
  // num_levels of them, the lowest first, and zeros for the lanes behind: they are read before their number is known.
  int16_t levels[nms::kLevels + 2 * 32];
};
constexpr int64_t kNmsCounterBins = ceil_div<int64_t>(sizeof(NmsCounters), sizeof(NmsBin));

// For each of the 32 boxes of a word a bit for each of 32 that would remove it and come before it.
struct NmsWordPairs {
  uint32_t removers[32];
};
// Of so many words, each with every word that is not after it.
SSD_HOST_DEVICE int64_t nms_word_pairs(int64_t words) { return words * (words + 1) / 2; }

template <typename T>
struct NmsArgs {
  int64_t n;
  NmsPlan plan;
  SuppressRule<T> rule;
  nms::GridRule<T> grid;
  NmsBin*
      zeroed;    // [kNmsCounterBins + bins], zero before the first kernel: the counters, then kept
  NmsBin* open;  // [2, bins] where the boxes of panel_list are filed
  Vec4<T>* boxes;       // [N] in score order
  int64_t* classes;     // [N] in score order, or null: one class
  int32_t* order;       // [N] box of each rank
  uint8_t* states;      // [N] NmsState
  int32_t* homes;       // [N] the bin of a normal box, -1 for an odd one
  Vec4<T>* kept_boxes;  // [N] by slot of kept bins
  int32_t* kept_ranks;  // [N] their ranks
  Vec4<T>* open_boxes;  // [N] by slot of open bins
  int32_t* open_ranks;  // [N]
  int32_t*
      panel_list;  // [2, largest_later] ranks of the boxes that no kept box of an earlier panel removes
  int32_t* odd;         // [N] ranks of the odd boxes, in any order
  NmsWordPairs* pairs;  // [nms_word_pairs(words of the first panel)], see pairs_of()
  int32_t* lists;       // [kNmsList, largest_later] open earlier suppressors of an undecided box
  int32_t* found;       // [largest_later] how many, and kNmsMore

  // take(count, T{}) gives memory for count values of T, aligned for them; but for zeroed nothing is read before it is
  // written.
  template <typename Take>
  NmsArgs(const NmsPlan& sizes, int64_t boxes_count, bool has_classes, const SuppressRule<T>& test,
          const Take& take)
      : n(boxes_count),
        plan(sizes),
        rule(test),
        grid(test, nms_finer_cells(test.threshold)),
        zeroed(take(kNmsCounterBins + plan.bins, NmsBin{})),
        open(take(2 * plan.bins, NmsBin{})),
        boxes(take(n, Vec4<T>{})),
        classes(has_classes ? take(n, int64_t{}) : nullptr),
        order(take(n, int32_t{})),
        states(take(n, uint8_t{})),
        homes(take(n, int32_t{})),
        kept_boxes(take(plan.bins > 0 ? n : 0, Vec4<T>{})),
        kept_ranks(take(plan.bins > 0 ? n : 0, int32_t{})),
        open_boxes(take(plan.bins > 0 ? n : 0, Vec4<T>{})),
        open_ranks(take(plan.bins > 0 ? n : 0, int32_t{})),
        panel_list(take(2 * plan.largest_later, int32_t{})),
        odd(take(n, int32_t{})),
        pairs(take(nms_word_pairs(ceil_div<int64_t>(plan.first_panel, 32)), NmsWordPairs{})),
        lists(take(kNmsList * plan.largest_later, int32_t{})),
        found(take(plan.largest_later, int32_t{})) {}

  std::size_t zeroed_bytes() const {
    return sizeof(NmsBin) * static_cast<std::size_t>(kNmsCounterBins + plan.bins);
  }
  __device__ NmsCounters& counters() const { return *reinterpret_cast<NmsCounters*>(zeroed); }
  // [bins] where kept boxes are filed; size counts the boxes of a bin until the slots are dealt.
  __device__ NmsBin* kept() const { return zeroed + kNmsCounterBins; }
  // The open bins and the list of every second panel, so that the last panel's can be emptied while this one's are filled.
  __device__ NmsBin* open_bins(int parity) const { return open + parity * plan.bins; }
  __device__ int32_t* list_of(int parity) const { return panel_list + parity * plan.largest_later; }
  __device__ uint64_t bin_mask() const { return static_cast<uint64_t>(plan.bins - 1); }

  __device__ Vec4<T> box(int64_t p) const { return boxes[p]; }
  __device__ int64_t class_of(int64_t p) const { return classes ? classes[p] : 0; }
  // The same number for every thread that asks only while nobody decides.
  __device__ NmsState state(int64_t p) const {
    return static_cast<NmsState>(load_relaxed(states + p));
  }
  __device__ void set_state(int64_t p, NmsState s) const {
    store_relaxed(states + p, static_cast<uint8_t>(s));
  }
  // Where boxes that do not overlap count too, no place is out of reach: every box is odd.
  __device__ nms::Kind kind(Vec4<T> b, T area) const {
    return rule.any_pair() ? nms::Kind::kOdd : nms::kind_of(b, area, rule);
  }
  __device__ Vec4<T> span(Vec4<T> b) const { return grid.span(b, kind(b, rule.area(b))); }
  __device__ int32_t& listed(int slot, int64_t in_panel) const {
    return lists[slot * plan.largest_later + in_panel];
  }
  // What the boxes of a word of the first panel have among those of an earlier one, or of their own.
  __device__ NmsWordPairs& pairs_of(int word, int earlier) const {
    return pairs[nms_word_pairs(word) + earlier];
  }
};

// How many boxes are few for the device, where each gets so many lanes. Of a plan with several panels.
inline int64_t nms_few_boxes(const NmsPlan& plan, int lanes) {
  return kNmsFewWaves * plan.tuning.at_once / lanes;
}

inline dim3 nms_blocks(int64_t threads, int block) {
  return dim3(static_cast<unsigned>(ceil_div<int64_t>(threads, block)));
}

}  // namespace ssd_cuda
