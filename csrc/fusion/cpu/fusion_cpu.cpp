// Weighted boxes fusion on the CPU; the schema of the family.
#include "fuse_image.h"
#include "fusion/fusion_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <typename T>
  static void run(const FusionRule<T>& rule, const std::vector<T>& weights, FusionInputs<T> inputs,
                  const FusionOutputs<T>& outputs, const Tensor&) {
    inputs.weights = weights.data();
    fuse_images(rule, inputs, outputs);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<FusionSettings>(m, "weighted_boxes_fusion",
                            "Tensor boxes, Tensor scores, Tensor labels, Tensor? real",
                            "(Tensor boxes, Tensor scores, Tensor labels, Tensor counts, "
                            "Tensor clusters)");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("weighted_boxes_fusion", SSD_BOX(&fusion_op<RunOnCpu>));
}

}  // namespace ssd_cuda
