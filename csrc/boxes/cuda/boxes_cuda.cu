// Bindings of the boxes family for CUDA tensors.
#include "boxes.cuh"
#include "boxes/boxes_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCard {
  template <CoderOp kOp, typename T>
  static void coder(const Coder<T>& coder, int64_t rows, const Vec4<T>* input, const Vec4<T>* grad,
                    Vec4<T>* output, const Tensor& where) {
    const CudaScope scope(where);
    check_cuda(launch_coder<kOp>(coder, rows, input, grad, output, scope.stream()), "box coder");
  }
  template <typename T>
  static void iou(const Vec4<T>* boxes1, int64_t n, const Vec4<T>* boxes2, int64_t m, T eps,
                  T* output, const Tensor& where) {
    const CudaScope scope(where);
    check_cuda(launch_iou(boxes1, n, boxes2, m, eps, output, scope.stream()), "box_iou");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { implement_boxes<RunOnCard>(m); }

}  // namespace ssd_cuda
