// The matching kernels for Python: all launches of the op.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "emulator/wide.h"
#include "matching/cuda/matching.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes: [G, 4], offsets: [B + 1], priors: [P, 4] or [B, P, 4] -> [B, P]. kClusters: as match_plan() has it, else in three
// kernels.
template <typename T, bool kClusters>
Array<int32_t> match(Array<T> boxes, Array<int32_t> offsets, Array<T> priors, int64_t prior_dims,
                     const MatchSettings& settings) {
  const int64_t batch = offsets.shape(0) - 1;
  const int64_t num_priors = priors.shape(static_cast<std::size_t>(prior_dims) - 2);
  Array<int32_t> codes({batch, num_priors});
  const MatchProblem<T> problem{.boxes = emulator::rows<Vec4<T>>(boxes),
                                .offsets = offsets,
                                .priors = emulator::rows<Vec4<T>>(priors),
                                .rows = boxes.shape(0),
                                .batch = batch,
                                .num_priors = num_priors,
                                .per_image = prior_dims == 3,
                                .rule = match_rule<T>(settings),
                                .codes = codes};
  const emulator::Memory memory;
  const MatchPlan plan = kClusters ? match_plan(problem) : MatchPlan{};
  emulator::check(launch_match(MatchArgs<T>(problem, plan, memory), plan, nullptr));
  return codes;
}

// How clusters match so many priors -> blocks of a cluster, threads of a block, bytes of shared memory; 0 blocks: not at all.
template <typename T>
py::tuple cluster_plan_of(int64_t batch, int64_t num_priors, int64_t rows,
                          const MatchSettings& settings) {
  MatchProblem<T> problem{};
  problem.rows = rows;
  problem.batch = batch;
  problem.num_priors = num_priors;
  problem.rule = match_rule<T>(settings);
  const MatchPlan plan = match_plan(problem);
  return py::make_tuple(plan.blocks, plan.threads, plan.shared_bytes);
}

// boxes: [G, 4], all in the last image; priors: the last ones of [images, num_priors, 4] -> their codes
template <bool kClusters>
Array<int32_t> wide_match(Array<float> boxes, Array<float> priors, int64_t images,
                          int64_t num_priors, const MatchSettings& settings) {
  const Array<float> table = emulator::ending_in(priors, 4 * images * num_priors);
  Array<int32_t> offsets({images + 1}, 0), codes({images * num_priors}, "a large output");
  offsets.data()[images] = static_cast<int32_t>(boxes.shape(0));
  const MatchProblem<float> problem{.boxes = emulator::rows<Vec4<float>>(boxes),
                                    .offsets = offsets,
                                    .priors = emulator::rows<Vec4<float>>(table),
                                    .rows = boxes.shape(0),
                                    .batch = images,
                                    .num_priors = num_priors,
                                    .per_image = true,
                                    .rule = match_rule<float>(settings),
                                    .codes = codes};
  const emulator::Memory memory;
  const MatchPlan plan = kClusters ? match_plan(problem) : MatchPlan{};
  emulator::check(launch_match(MatchArgs<float>(problem, plan, memory), plan, nullptr));
  return emulator::end_of(codes, priors.shape(0));
}

// boxes: [G, 4], priors: [P, 4] x1, y1, x2, y2, one group -> [G], the bound of the group.
template <typename T>
Array<T> overlap_bound(Array<T> boxes, Array<T> priors, double eps) {
  PriorGroup<T> group = PriorGroup<T>::none();
  for (py::ssize_t p = 0; p < priors.shape(0); ++p) {
    const Vec4<T> prior = emulator::rows<Vec4<T>>(priors)[p];
    group.merge(PriorGroup<T>::of(prior, box_area(prior)));
  }
  Array<T> bounds({boxes.shape(0)}, T(0));
  for (py::ssize_t g = 0; g < boxes.shape(0); ++g) {
    const Vec4<T> truth = emulator::rows<Vec4<T>>(boxes)[g];
    bounds.data()[g] = group.overlap_bound(truth, box_area(truth), T(eps));
  }
  return bounds;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("overlap_bound", &overlap_bound<float>);
  m.def("overlap_bound", &overlap_bound<double>);
  m.def("match", &match<float, false>);
  m.def("match", &match<double, false>);
  m.def("match_in_clusters", &match<float, true>);
  m.def("match_in_clusters", &match<double, true>);
  m.def("cluster_plan", &cluster_plan_of<float>);
  m.def("cluster_plan_of_double", &cluster_plan_of<double>);
  m.def("wide_match", &wide_match<false>);
  m.def("wide_match_in_clusters", &wide_match<true>);
}
