// The earlier boxes of a panel that would remove a box, and what their states say of it.
#pragma once

#include "search.cuh"

namespace ssd_cuda {

// What a search has found: removed, by a box that is kept; or how many open suppressors its list holds, and whether
// there may be more.
struct NmsFound {
  int count;
  bool removed, more;
};

// Gathers what a team finds. status(j) is the state of the box of rank j, relaxed: a box that is decided stays so. list
// [kNmsList], shared by the team, gets places in the panel that begins at rank `begin`.
template <int kLanes, typename T, typename Status>
struct NmsCollector {
  const NmsArgs<T>& args;
  const NmsQuery<T>& query;
  const Status& status;
  int32_t* list;
  int32_t begin;
  NmsFound found{0, false, false};

  // Whether box j, which has the rank j, removes the query's. Called by a lane.
  __device__ bool hits(bool valid, int64_t j) const { return hits(valid, j, args.box(j)); }
  __device__ bool hits(bool valid, int64_t j, Vec4<T> other) const {
    return valid && j >= begin && j < query.rank && query.overlaps(args, other) &&
           args.class_of(j) == args.class_of(query.rank);
  }
  // Called by the warp, hit where j is a suppressor. Whether that is enough for the team's box.
  __device__ bool note(bool hit, int64_t j) {
    using Team = NmsTeam<kLanes>;
    if (!nms_any_of_warp(hit)) return false;
    const NmsState state = hit ? status(j) : NmsState::kRemoved;
    found.removed = Team::any(state == NmsState::kKept) || found.removed;
    const bool open = state == NmsState::kOpen;
    const unsigned lanes = Team::ballot(open);
    const int slot = found.count + __popc(lanes & ((1u << Team::lane()) - 1));
    if (open && slot < kNmsList) list[slot] = static_cast<int32_t>(j - begin);
    found.count += __popc(lanes);
    found.more = found.more || found.count > kNmsList;
    found.count = min(found.count, kNmsList);
    return found.removed || found.more;
  }
};

// The suppressors of box p in its panel, some of them twice. Called by a warp, for the boxes of its active teams; their lists
// are there for all lanes afterwards.
template <int kLanes, typename T, typename Status>
__device__ NmsFound nms_find_suppressors(bool active, const NmsArgs<T>& args, int32_t* list,
                                         const NmsPanel& panel, int64_t p, const Status& status) {
  const NmsQuery<T> query(args, p);
  NmsCollector<kLanes, T, Status> collector{args, query, status, list,
                                            static_cast<int32_t>(panel.begin)};
  __syncwarp();  // nobody reads the list of an earlier search any more
  nms_search<kLanes>(
      active, args, query, args.open_bins(panel.parity), panel.begin, p,
      [&](int slot) { return NmsSlotBox<T>{args.open_boxes[slot], args.open_ranks[slot]}; },
      [&](bool valid, const NmsSlotBox<T>& open) {
        return collector.note(collector.hits(valid, open.at, open.box), open.at);
      },
      [&](bool valid, int64_t j) { return collector.note(collector.hits(valid, j), j); });
  __syncwarp();
  return collector.found;
}

// Files the kept box p in its bin. Called by one lane.
template <typename T>
__device__ void nms_file(const NmsArgs<T>& args, int64_t p) {
  const int32_t home = args.homes[p];
  if (home < 0) return;
  NmsBin* const bin = args.kept() + home;
  const int slot = bin->start + atomicAdd(&bin->size, 1);
  args.kept_boxes[slot] = args.box(p);
  args.kept_ranks[slot] = static_cast<int32_t>(p);
}

// Says that box p of a panel is kept, and files it for the panels that follow, if any do. Called by one lane.
template <typename T>
__device__ void nms_keep(const NmsArgs<T>& args, const NmsPanel& panel, int64_t p) {
  args.set_state(p, NmsState::kKept);
  if (panel.end < args.n) nms_file(args, p);
}

// Decides box p of the panel from the states of its suppressors, which others decide meanwhile: removed when one is kept,
// kept when all are removed. No thread waits for another: after plan.tuning.attempts looks the box is left to be
// resolved, with its list in args. Whether it is left; called by a warp, for the boxes of its active teams.
template <int kLanes, typename T>
__device__ bool nms_decide(bool active, const NmsArgs<T>& args, int32_t* list,
                           const NmsPanel& panel, int64_t p) {
  using Team = NmsTeam<kLanes>;
  const auto status = [&](int64_t j) { return args.state(j); };
  NmsFound found{0, false, false};
  bool search = active;
  for (int looks = 0;; ++looks) {
    if (nms_any_of_warp(search)) {  // at one place in the code, for its registers
      const NmsFound now = nms_find_suppressors<kLanes>(search, args, list, panel, p, status);
      if (search) found = now;
    }
    const bool free = found.count == 0 && !found.more;
    if (active && (found.removed || free)) {
      active = false;
      if (Team::lane() == 0 && found.removed) args.set_state(p, NmsState::kRemoved);
      if (Team::lane() == 0 && !found.removed) nms_keep(args, panel, p);
    }
    if (looks == args.plan.tuning.attempts || !nms_any_of_warp(active)) break;
    bool kept = false, open = false;
    for (int i = Team::lane(); active && i < found.count; i += kLanes) {
      const NmsState state = args.state(panel.begin + list[i]);
      kept = kept || state == NmsState::kKept, open = open || state == NmsState::kOpen;
    }
    found.removed = Team::any(kept);
    if (!Team::any(open)) found.count = 0;
    search = active && !found.removed && found.count == 0 && found.more;
  }
  if (!active) return false;
  const int64_t own = p - panel.begin;
  for (int i = Team::lane(); i < found.count; i += kLanes) args.listed(i, own) = list[i];
  if (Team::lane() == 0) args.found[own] = found.count | (found.more ? kNmsMore : 0);
  return true;
}

}  // namespace ssd_cuda
