// The matching kernels for Python: all launches of the op, with the scratch memory that its binding gives them.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "matching/cuda/matching.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes: [G, 4], offsets: [B + 1], priors: [P, 4] or [B, P, 4] -> [B, P]
template <typename T>
Array<int32_t> match(Array<T> boxes, Array<int32_t> offsets, Array<T> priors, int64_t prior_dims,
                     const MatchSettings& settings) {
  const int64_t batch = offsets.shape(0) - 1, rows = boxes.shape(0);
  const int64_t num_priors = priors.shape(static_cast<std::size_t>(prior_dims) - 2);
  Array<int32_t> codes({batch, num_priors});
  const auto rule = match_rule<T>(settings);
  const int64_t tables = prior_dims == 3 ? batch : 1;
  const auto bytes = [](std::size_t size) { return static_cast<py::ssize_t>(size); };
  Array<unsigned char> groups({tables * num_groups(num_priors), bytes(sizeof(PriorGroup<T>))},
                              "the groups");
  Array<unsigned char> tops(
      {rule.forced == Forced::kBipartite ? rows : 0, bytes(sizeof(BestPrior<T>))}, "the tops");
  Array<int32_t> renames({rule.relabels() ? batch * num_priors : 0}, "the renames");
  const MatchArgs<T> args{.boxes = boxes,
                          .offsets = offsets,
                          .priors = priors,
                          .rows = rows,
                          .batch = batch,
                          .num_priors = num_priors,
                          .per_image = prior_dims == 3,
                          .rule = rule,
                          .groups = reinterpret_cast<PriorGroup<T>*>(groups.data()),
                          .tops = reinterpret_cast<BestPrior<T>*>(tops.data()),
                          .renames = renames,
                          .codes = codes};
  emulator::check(launch_match(args, nullptr));
  return codes;
}

// boxes: [G, 4], priors: [P, 4] x1, y1, x2, y2, one group -> [G], the bound of the group.
template <typename T>
Array<T> overlap_bound(Array<T> boxes, Array<T> priors, double eps) {
  const auto rows = [](const Array<T>& table) {
    return reinterpret_cast<const Vec4<T>*>(table.data());
  };
  PriorGroup<T> group = PriorGroup<T>::none();
  for (py::ssize_t p = 0; p < priors.shape(0); ++p) {
    const Vec4<T> prior = rows(priors)[p];
    group.merge(PriorGroup<T>::of(prior, box_area(prior)));
  }
  Array<T> bounds({boxes.shape(0)}, T(0));
  for (py::ssize_t g = 0; g < boxes.shape(0); ++g) {
    const Vec4<T> truth = rows(boxes)[g];
    bounds.data()[g] = group.overlap_bound(truth, box_area(truth), T(eps));
  }
  return bounds;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("overlap_bound", &overlap_bound<float>);
  m.def("overlap_bound", &overlap_bound<double>);
  m.def("match", &match<float>);
  m.def("match", &match<double>);
}
