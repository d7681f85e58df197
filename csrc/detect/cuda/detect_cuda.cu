// Binding of the detect family for CUDA tensors.
#include "detect.cuh"
#include "detect/detect_op.h"

namespace ssd_cuda {
namespace {

struct CudaDetect {
  template <typename T, typename S>
  static void run(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
                  const DetectOutputs<T>& outputs, const Tensor& conf) {
    const CudaScope scope(conf);
    const auto bytes = detect_workspace_bytes(options, inputs.images, inputs.num_priors);
    const Tensor workspace = empty_on(conf, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    check_cuda(
        launch_detect(options, inputs, outputs, out<unsigned char>(workspace), scope.stream()),
        "detect");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { m.impl("detect", SSD_BOX(&detect_op<CudaDetect>)); }

}  // namespace ssd_cuda
