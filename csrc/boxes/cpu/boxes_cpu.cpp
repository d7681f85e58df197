// Pairwise IoU, encode and decode on the CPU; the schemas of the family.
#include "box_coder.h"
#include "boxes/boxes_op.h"
#include "iou_matrix.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <CoderOp kOp, typename T>
  static void coder(const Coder<T>& coder, int64_t rows, const Vec4<T>* input, const Vec4<T>* grad,
                    Vec4<T>* output, const Tensor&) {
    code_boxes<kOp>(coder, input, grad, rows, output);
  }
  template <typename T>
  static void iou(const Vec4<T>* boxes1, int64_t n, const Vec4<T>* boxes2, int64_t m, T eps,
                  T* output, const Tensor&) {
    iou_matrix(boxes1, n, boxes2, m, eps, output);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<IouSettings>(m, "box_iou", "Tensor boxes1, Tensor boxes2", "Tensor");
  const std::string priors = ", Tensor priors, Tensor? variances";
  const std::string boxes = "Tensor boxes" + priors, loc = "Tensor loc" + priors;
  define_op<EncodeSettings>(m, "box_encode", boxes, "Tensor");
  define_op<EncodeSettings>(m, "box_encode_backward", "Tensor grad, " + boxes, "Tensor");
  define_op<DecodeSettings>(m, "box_decode", loc, "Tensor");
  define_op<DecodeSettings>(m, "box_decode_backward", "Tensor grad, " + loc, "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { implement_boxes<RunOnCpu>(m); }

}  // namespace ssd_cuda
