// Weighted boxes fusion for Python, through its launcher.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "fusion/cuda/fusion.cuh"

namespace {

using emulator::Array;
using emulator::rows;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes: [B, N, 4], scores, labels, real: [B, N] -> boxes, scores, labels, counts, clusters
template <typename T>
py::tuple fuse(Array<T> boxes, Array<T> scores, Array<int64_t> labels,
               std::optional<Array<bool>> real, const FusionSettings& settings) {
  const int64_t images = boxes.shape(0), n = boxes.shape(1), kept = settings.max_output;
  Array<T> fused({images, kept, 4}), fused_scores({images, kept});
  Array<int64_t> fused_labels({images, kept}), counts({images}), clusters({images, n});
  const FusionInputs<T> inputs{rows<Vec4<T>>(boxes),
                               scores.data(),
                               labels.data(),
                               emulator::pointer(real),
                               nullptr,
                               images,
                               n};
  const FusionOutputs<T> outputs{
      rows<Vec4<T>>(fused), fused_scores, fused_labels, counts, clusters, kept};
  const std::vector<T> weights(settings.weights.begin(), settings.weights.end());
  const emulator::Memory memory;
  const FusionArgs<T> args(fusion_rule<T>(settings, n), inputs, outputs, memory);
  emulator::check(launch_fusion(args, weights.data(), nullptr));
  return py::make_tuple(fused, fused_scores, fused_labels, counts, clusters);
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("fuse", &fuse<float>);
  m.def("fuse", &fuse<double>);
}
