// The fused post-process on the CPU; the schema of the family.
#include "cpu_detect.h"
#include "detect/detect_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <typename T, typename S>
  static void run(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
                  const DetectOutputs<T>& outputs, const Tensor&) {
    CpuDetect<T, S>(options, inputs, outputs).run();
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def(
      "detect(Tensor loc, Tensor conf, Tensor priors, int scores, float score_threshold, int "
      "top_k, "
      "float iou_threshold, bool inclusive, float iou_eps, float pixel_offset, float soft_sigma, "
      "bool class_agnostic, int first_label, int last_label, int rows, float[] variance, float "
      "max_log, "
      "bool symmetric, bool xyxy, int clip, float[] clip_size, bool channels_first) "
      "-> (Tensor boxes, Tensor scores, Tensor labels, Tensor prior_indices, Tensor counts)");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("detect", TORCH_BOX(&detect_op<RunOnCpu>)); }

}  // namespace ssd_cuda
