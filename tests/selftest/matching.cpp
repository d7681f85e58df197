// The matching and the mining family.
#include "matching/cpu/match_call.h"
#include "mining/cpu/mining_rows.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

// odd_every: see boxes(); without odd ones the vectors are used, with them the plain loop.
template <typename T>
void match_all(const char* kind, int64_t odd_every) {
  constexpr int64_t kPriors = 4500, kBatch = 3;
  const auto truths = boxes<T>(11, 40, odd_every), priors = centers<T>(12, kPriors);
  const int32_t offsets[kBatch + 1] = {0, 23, 23, 40};
  for (int forced = 0; forced < 3; ++forced) {
    for (bool last : {false, true}) {
      std::vector<int32_t> codes(kBatch * kPriors);
      MatchCall<T>({.boxes = truths.data(),
                    .offsets = offsets,
                    .priors = priors.data(),
                    .rows = 40,
                    .batch = kBatch,
                    .num_priors = kPriors,
                    .per_image = false,
                    .rule = {.threshold = T(0.5),
                             .eps = T(0),
                             .forced_min = T(last ? 0.1 : 0),
                             .candidate_max = T(last ? 0.4 : -1),
                             .forced = Forced(forced),
                             .inclusive = last,
                             .relabel_unforced = last,
                             .tie_last = last,
                             .ignore_degenerate = !last,
                             .format = BoxFormat::kCxcywh},
                    .codes = codes.data()})
          .run();
      const std::string name =
          "match_" + std::string(kind) + "_" + std::to_string(forced) + (last ? "_last" : "_first");
      report(name.c_str(), kTypeName<T>, Hash().add(codes));
    }
  }
}

template <typename S>
void mine() {
  using T = acc_t<S>;
  constexpr int64_t kBatch = 4, kWidth = 2100;
  const std::vector<S> keys = numbers<S>(21, kBatch * kWidth, 10, 50);
  const int64_t ks[kBatch] = {0, 37, 1500, kWidth};
  std::vector<S> threshold(kBatch);
  std::vector<int64_t> tie(kBatch), count(kBatch);
  std::vector<T> sum(kBatch);
  std::vector<char> mask(kBatch * kWidth), positives(kBatch * kWidth), candidates(kBatch * kWidth);
  const auto bools = [](std::vector<char>& bytes) { return reinterpret_cast<bool*>(bytes.data()); };
  select_rows<S>(keys.data(), ks, kBatch, kWidth,
                 {threshold.data(), tie.data(), count.data(), sum.data(), bools(mask)});
  report("top_k_threshold", kTypeName<S>,
         Hash().add(threshold).add(tie).add(count).add(sum).add(mask));
  Random random(22);
  for (char& positive : positives) positive = random.below(60) == 0;
  for (char& candidate : candidates) candidate = random.below(5) != 0;
  for (bool all : {false, true}) {
    const MiningRule rule{.ratio = 3,
                          .round_up = all,
                          .min_negatives = 2,
                          .cap = all ? MiningRule::kAllButOne : MiningRule::kNegatives,
                          .zero_fill = all};
    select_negative_rows(rule, keys.data(), bools(positives), all ? nullptr : bools(candidates),
                         kBatch, kWidth, bools(mask));
    report(all ? "hard_negatives_all" : "hard_negatives", kTypeName<S>, Hash().add(mask));
  }
}

}  // namespace

void matching_family() {
  match_all<float>("plain", 6);
  match_all<double>("plain", 6);
  match_all<float>("fast", 0);
  match_all<double>("fast", 0);
}

void mining_family() {
  mine<float>();
  mine<double>();
  mine<Half>();
  mine<BFloat16>();
}

}  // namespace selftest
