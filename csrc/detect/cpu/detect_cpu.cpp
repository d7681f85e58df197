// The fused post-process on the CPU; the schema of the family.
#include "cpu_detect.h"
#include "detect/detect_op.h"
#include "detect/input_op.h"

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
  define_op<DetectSettings>(m, "detect",
                            "Tensor loc, Tensor conf, Tensor priors, Tensor? clip_sizes=None",
                            "(Tensor boxes, Tensor scores, Tensor labels, "
                            "Tensor prior_indices, Tensor counts)");
  define_op<InputSettings>(m, "checked_input", "Tensor input", "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CompositeExplicitAutograd, m) {
  m.impl("checked_input", SSD_BOX(&checked_input));
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("detect", SSD_BOX(&detect_op<RunOnCpu>)); }

}  // namespace ssd_cuda
