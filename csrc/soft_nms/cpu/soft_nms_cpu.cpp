// soft-NMS on the CPU; the schema of the op.
#include "soft_nms.h"
#include "soft_nms/soft_nms_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <typename T>
  static void run(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                  const SoftRule<T>& rule, const Tensor& keep, const Tensor& kept_scores,
                  const Tensor& count) {
    const int64_t rows = keep.size(0);
    const auto choices = soft_nms_choices(in<Vec4<T>>(boxes), in<T>(scores), in<int64_t>(idxs),
                                          boxes.size(0), rule, rows);
    const auto found = static_cast<int64_t>(choices.size());
    for (int64_t k = 0; k < rows; ++k) {
      out<int64_t>(keep)[k] = k < found ? int64_t{choices[k].index} : -1;
      out<T>(kept_scores)[k] = k < found ? choices[k].score : T(0);
    }
    *out<int64_t>(count) = found;
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<SoftNmsSettings>(m, "soft_nms", "Tensor boxes, Tensor scores, Tensor? idxs",
                             "(Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("soft_nms", SSD_BOX(&soft_nms_op<RunOnCpu>)); }

}  // namespace ssd_cuda
