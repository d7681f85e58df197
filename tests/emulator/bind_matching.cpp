// The matching kernels for Python: both launches of the op, with the scratch memory that its binding gives them.
#include "emulator/binding.h"
#include "matching/force.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes: [G, 4], offsets: [B + 1], priors: [P, 4] or [B, P, 4] -> [B, P]
template <typename T>
Array<int32_t> match(Array<T> boxes, Array<int32_t> offsets, Array<T> priors, int64_t prior_dims,
                     double threshold, bool inclusive, double eps, int64_t forced,
                     double forced_min, bool relabel_unforced, bool tie_last, double candidate_max,
                     bool ignore_degenerate, bool xyxy) {
  const int64_t batch = offsets.shape(0) - 1, rows = boxes.shape(0);
  const int64_t num_priors = priors.shape(static_cast<std::size_t>(prior_dims) - 2);
  Array<int32_t> codes({batch, num_priors});
  Array<PackedTop> packed({rows}, PackedTop(0), "the packed tops");
  Array<unsigned char> tops({rows, static_cast<py::ssize_t>(sizeof(BestPrior<T>))}, "the tops");
  const MatchArgs<T> args{
      .boxes = boxes,
      .offsets = offsets,
      .priors = priors,
      .rows = rows,
      .batch = batch,
      .num_priors = num_priors,
      .per_image = prior_dims == 3,
      .rule = make_match_rule<T>(threshold, inclusive, eps, forced, forced_min, relabel_unforced,
                                 tie_last, candidate_max, ignore_degenerate, xyxy),
      .packed = packed,
      .tops = reinterpret_cast<BestPrior<T>*>(tops.data()),
      .codes = codes};
  emulator::check(launch_match(args, nullptr));
  emulator::check(launch_force(args, nullptr));
  return codes;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("match", &match<float>);
  m.def("match", &match<double>);
}
