// Greedy suppression on several threads: a stripe of the scene a thread.
//
// Boxes of two stripes do not meet. Those that lie across a border may meet what is on both sides: they are looked at in
// each stripe that they reach into, but nobody there can decide that they stay. Nor what they, if they stay, would remove;
// nor what that would remove, and so on. All else is decided inside its stripe, in score order: a box that a kept one
// removes is removed, a box that nothing kept or open would remove is kept. What is open then is removed by no kept box, so
// the same rule over the open ones alone, on one thread, decides it. The outcome of the greedy rule is one, so these are the
// bits of one thread, whatever the stripes are.
//
// Scenes where many boxes lie across the borders are cut into fewer stripes, at last into none: open boxes are tested
// against each other by the thousand.
#pragma once

#include <algorithm>
#include <vector>

#include "nms_merge.h"
#include "nms_sort.h"
#include "nms_sweep.h"

namespace ssd_cuda {
namespace nms {

// Boxes that are worth a thread of their own, and the most threads.
constexpr int64_t kStripeBoxes = 2048, kMostStripes = 64;
constexpr int64_t kCutSamples = 1024;
// What may lie across borders: one box of so many; of a sample, and of all, which may be otherwise (anchors come in a rhythm).
constexpr int64_t kAcross = 32, kAllAcross = 16;

// Where boxes begin and end along the axis of the cuts. Two that do not meet there have no overlap, however that is rounded.
template <typename T>
struct Extent {
  double first, last;

  Extent(const Candidate<T>& c, T pixel_offset)
      : first(c.box.x), last(static_cast<double>(c.box.z) + pixel_offset) {}
  double middle() const { return 0.5 * first + 0.5 * last; }
};

// The borders of `count` stripes at most, between which the boxes are spread evenly.
template <typename T>
inline std::vector<double> stripe_borders(const Boxes<T>& boxes, int64_t count) {
  std::vector<Extent<T>> sample;
  const int64_t step = std::max<int64_t>(1, boxes.count / kCutSamples);
  for (int64_t i = 0; i < boxes.count; i += step) {
    const Candidate<T> c = boxes.candidate(i);
    if (boxes.kind(c) == Kind::kNormal) sample.emplace_back(c, boxes.rule.pixel_offset);
  }
  const auto samples = static_cast<int64_t>(sample.size());
  const auto leftmost = [](const Extent<T>& a, const Extent<T>& b) {
    return a.middle() < b.middle();
  };
  for (; count > 1 && samples >= count; count /= 2) {
    std::vector<double> borders;
    auto from = sample.begin();
    for (int64_t s = 1; s < count; ++s) {
      const auto at = sample.begin() + s * samples / count;
      std::nth_element(from, at, sample.end(), leftmost);
      borders.push_back(at->middle());
      from = at;
    }
    const int64_t across = std::count_if(sample.begin(), sample.end(), [&](const Extent<T>& e) {
      return std::any_of(borders.begin(), borders.end(),
                         [&](double border) { return e.first <= border && border <= e.last; });
    });
    if (kAcross * across <= samples) return borders;
  }
  return {};
}

template <typename T, typename Key>
class Stripes {
  using Items = std::vector<Ranked<Key>>;

 public:
  Stripes(const Boxes<T>& boxes, const std::vector<Key>& keys, std::vector<double> borders)
      : boxes_(boxes),
        keys_(keys),
        borders_(std::move(borders)),
        parts_(borders_.size() + 1),
        reach_(boxes.count) {
    parallel_grains(boxes.count, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) reach_[i] = reach_of(i);
    });
  }

  bool worth_it() const {
    const int64_t across = std::count_if(reach_.begin(), reach_.end(), is_across);
    return kAllAcross * across <= boxes_.count;
  }

  // The indices of the boxes that are kept, the first `room` of them, in score order, to make(how many).
  template <typename Make>
  void run(int64_t room, const Make& make) {
    parallel_grains(parts(), 1, [&](int64_t part, int64_t) { decide(part, room); });
    std::vector<Items> kept{settle(room)};
    for (Part& part : parts_) kept.push_back(std::move(part.kept));
    merge_indices(kept, room, parts(), make);
  }

 private:
  struct Reach {
    uint8_t first, last;  // stripe
  };
  static bool is_across(Reach reach) { return reach.first != reach.last; }
  struct Part {
    Items kept, open;
    std::vector<uint32_t> removed;  // of the boxes that lie across a border
  };

  int64_t parts() const { return static_cast<int64_t>(parts_.size()); }

  Reach reach_of(int64_t i) const {
    const Candidate<T> c = boxes_.candidate(i);
    if (boxes_.kind(c) == Kind::kInert) {  // is nowhere: meets nobody
      const auto part = static_cast<uint8_t>(i * parts() / boxes_.count);
      return {part, part};
    }
    const Extent<T> e(c, boxes_.rule.pixel_offset);
    Reach reach{0, 0};
    for (double border : borders_) reach.first += border < e.first, reach.last += border <= e.last;
    return reach;
  }

  void decide(int64_t index, int64_t room) {
    const auto own = static_cast<uint8_t>(index);
    Part& part = parts_[index];
    Items items;
    items.reserve(boxes_.count / parts() * 9 / 8);  // about as many
    for (int64_t i = 0; i < boxes_.count; ++i) {
      if (reach_[i].first <= own && own <= reach_[i].last) {
        items.push_back({keys_[i], static_cast<uint32_t>(i)});
      }
    }
    sort_ranked(items);
    part.kept.reserve(items.size());
    const auto waits = [&](int64_t k) { return is_across(reach_[items[k].index]); };
    Sweep<T>(boxes_, items.data(), static_cast<int64_t>(items.size()))
        .run_open(room, waits, [&](int64_t k, Fate fate) {
          if (fate == Fate::kKept) part.kept.push_back(items[k]);
          if (fate == Fate::kOpen && reach_[items[k].index].first == own) {
            part.open.push_back(items[k]);
          }
          if (fate == Fate::kRemoved && waits(k)) part.removed.push_back(items[k].index);
        });
  }

  // Those of the open boxes that are kept.
  Items settle(int64_t room) {
    std::vector<uint8_t> removed(boxes_.count, 0);
    for (const Part& part : parts_) {
      for (uint32_t i : part.removed) removed[i] = 1;
    }
    Items open, kept;
    for (const Part& part : parts_) {
      std::copy_if(part.open.begin(), part.open.end(), std::back_inserter(open),
                   [&](const Ranked<Key>& item) { return removed[item.index] == 0; });
    }
    std::sort(open.begin(), open.end());
    Sweep<T>(boxes_, open.data(), static_cast<int64_t>(open.size())).run(room, [&](int64_t k) {
      kept.push_back(open[k]);
    });
    return kept;
  }

  const Boxes<T>& boxes_;
  const std::vector<Key>& keys_;
  const std::vector<double> borders_;
  std::vector<Part> parts_;
  std::vector<Reach> reach_;
};

// The indices of the boxes that are kept, the first `room` of them, in score order, to make(how many). keys: rank_key of
// every score.
template <typename T, typename Key, typename Make>
void kept_indices(const Boxes<T>& boxes, const std::vector<Key>& keys, int64_t room,
                  const Make& make) {
  const int64_t most =
      std::min<int64_t>({task_threads(), kMostStripes, boxes.count / kStripeBoxes});
  if (most > 1 && !boxes.rule.any_pair()) {
    std::vector<double> borders = stripe_borders(boxes, most);
    if (!borders.empty()) {
      Stripes<T, Key> stripes(boxes, keys, std::move(borders));
      if (stripes.worth_it()) return stripes.run(room, make);
    }
  }
  std::vector<Ranked<Key>> items(boxes.count);
  for (int64_t i = 0; i < boxes.count; ++i) items[i] = {keys[i], static_cast<uint32_t>(i)};
  sort_ranked(items);
  std::vector<uint32_t> kept;
  kept.reserve(std::min(room, boxes.count));
  Sweep<T>(boxes, items.data(), boxes.count).run(room, [&](int64_t k) {
    kept.push_back(items[k].index);
  });
  std::copy(kept.begin(), kept.end(), make(static_cast<int64_t>(kept.size())));
}

}  // namespace nms
}  // namespace ssd_cuda
