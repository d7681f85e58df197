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
  __device__ bool hits(bool valid, int64_t j) const {
    return valid && j >= begin && j < query.rank && query.removed_by(args, j);
  }
  // Called by the team, hit where j is a suppressor. Whether to stop.
  __device__ bool note(bool hit, int64_t j) {
    using Team = NmsTeam<kLanes>;
    if (!Team::any(hit)) return false;
    const NmsState state = hit ? status(j) : NmsState::kRemoved;
    found.removed = Team::any(state == NmsState::kKept);
    if (found.removed) return true;
    const bool open = state == NmsState::kOpen;
    const unsigned lanes = Team::ballot(open);
    const int slot = found.count + __popc(lanes & ((1u << Team::lane()) - 1));
    if (open && slot < kNmsList) list[slot] = static_cast<int32_t>(j - begin);
    found.count += __popc(lanes);
    found.more = found.count > kNmsList;
    if (found.more) found.count = kNmsList;
    return found.more;
  }
};

// Of ranks [begin, query.rank), in ascending order: the best are the most likely to be kept. Four loads wait together.
template <int kLanes, typename Collector>
__device__ void nms_scan_ranks(Collector& collector) {
  constexpr int kAtOnce = 4;
  const int64_t end = collector.query.rank;
  for (int64_t first = collector.begin; first < end; first += kAtOnce * kLanes) {
    bool hit[kAtOnce], any = false;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t j = first + k * kLanes + NmsTeam<kLanes>::lane();
      hit[k] = collector.hits(j < end, j);
      any = any || hit[k];
    }
    if (!NmsTeam<kLanes>::any(any)) continue;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t j = first + k * kLanes + NmsTeam<kLanes>::lane();
      if (collector.note(hit[k], j)) return;
    }
  }
}

// The suppressors of box p in the panel that begins at rank `begin`, by ranks or by bins; the first panel (kFirst) has no
// bins. By bins some are found twice. Called by a team; the list is there for all its lanes afterwards.
template <int kLanes, bool kFirst, typename T, typename Status>
__device__ NmsFound nms_find_suppressors(const NmsArgs<T>& args, int32_t* list, int64_t begin,
                                         int64_t p, const Status& status, bool by_ranks = kFirst) {
  const NmsQuery<T> query(args, p);
  NmsCollector<kLanes, T, Status> collector{args, query, status, list, static_cast<int32_t>(begin)};
  NmsTeam<kLanes>::sync();  // nobody reads the list of an earlier search any more
  if (kFirst || by_ranks) {
    nms_scan_ranks<kLanes>(collector);
  } else {
    const auto by_rank = [&](bool valid, int64_t j) {
      return collector.note(collector.hits(valid, j), j);
    };
    nms_search<kLanes>(
        args, query, args.open, begin, p,
        [&](bool valid, int slot) {
          return by_rank(valid, valid ? int64_t{args.open_ranks[slot]} : int64_t{0});
        },
        by_rank);
  }
  NmsTeam<kLanes>::sync();
  return collector.found;
}

// Says that box p is kept, and files it for the panels that follow. Called by one lane.
template <typename T>
__device__ void nms_keep(const NmsArgs<T>& args, int64_t p) {
  args.set_state(p, NmsState::kKept);
  if (args.plan.bins == 0 || args.homes[p] < 0) return;
  NmsBin* const bin = args.kept() + args.homes[p];
  const int slot = bin->start + atomicAdd(&bin->size, 1);
  args.kept_boxes[slot] = args.box(p);
  args.kept_ranks[slot] = static_cast<int32_t>(p);
}

// Decides box p of the panel from the states of its suppressors, which others decide meanwhile: removed when one is kept,
// kept when all are removed. No thread waits for another: after plan.tuning.attempts looks the box is left to the last
// block, with its list in args. Whether it was decided; called by a team.
template <int kLanes, bool kFirst, typename T>
__device__ bool nms_decide(const NmsArgs<T>& args, int32_t* list, int64_t begin, int64_t p) {
  using Team = NmsTeam<kLanes>;
  const auto status = [&](int64_t j) { return args.state(j); };
  NmsFound found{0, false, true};
  bool search = true;  // at one place in the code, for its registers
  for (int looks = 0;; ++looks) {
    if (search) found = nms_find_suppressors<kLanes, kFirst>(args, list, begin, p, status);
    if (found.removed || (found.count == 0 && !found.more)) break;
    if (looks == args.plan.tuning.attempts) break;
    bool kept = false, open = false;
    for (int i = Team::lane(); i < found.count; i += kLanes) {
      const NmsState state = args.state(begin + list[i]);
      kept = kept || state == NmsState::kKept, open = open || state == NmsState::kOpen;
    }
    found.removed = Team::any(kept);
    const bool settled = !Team::any(open);
    if (settled) found.count = 0;
    search = settled && found.more;
  }
  const bool free = found.count == 0 && !found.more;
  if (found.removed || free) {
    if (Team::lane() != 0) return true;
    if (free && !found.removed) nms_keep(args, p);
    if (found.removed) args.set_state(p, NmsState::kRemoved);
    return true;
  }
  for (int i = Team::lane(); i < found.count; i += kLanes) args.listed(i, p - begin) = list[i];
  if (Team::lane() == 0) args.found[p - begin] = found.count + (found.more ? 1 : 0);
  return false;
}

}  // namespace ssd_cuda
