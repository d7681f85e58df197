// soft-NMS, DIoU-NMS and matrix NMS on the CPU; the schemas of the family.
#include "diou_nms.h"
#include "matrix_nms.h"
#include "soft_nms/soft_nms_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <typename T, typename Rule>
  static void run(const ScoredBoxes<T>& of, const Rule& rule, const KeptRows<T>& to,
                  const Tensor&) {
    const auto choices = choices_of(of.boxes, of.scores, of.idxs, of.n, rule, to.rows);
    const auto found = static_cast<int64_t>(choices.size());
    for (int64_t k = 0; k < to.rows; ++k) {
      to.keep[k] = k < found ? int64_t{choices[k].index} : -1;
      to.scores[k] = k < found ? choices[k].score : T(0);
    }
    *to.count = found;
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  constexpr const char* kTensors = "Tensor boxes, Tensor scores, Tensor? idxs";
  constexpr const char* kResults = "(Tensor, Tensor, Tensor)";
  define_op<SoftNmsSettings>(m, "soft_nms", kTensors, kResults);
  define_op<DiouNmsSettings>(m, "diou_nms", kTensors, kResults);
  define_op<MatrixNmsSettings>(m, "matrix_nms", kTensors, kResults);
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { implement_soft_nms<RunOnCpu>(m); }

}  // namespace ssd_cuda
