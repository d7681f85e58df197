// The soft-NMS family.
#include "selftest.h"
#include "soft_nms/cpu/diou_nms.h"
#include "soft_nms/cpu/matrix_nms.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

template <typename T, typename Rule>
void choices(const char* kind, const Rule& rule) {
  constexpr int64_t kCount = 900;
  const auto all = boxes<T>(61, kCount, 30);
  const std::vector<T> scores = numbers<T>(62, kCount, 1, 25);
  std::vector<int64_t> classes;
  for (int64_t i = 0; i < kCount; ++i) classes.push_back(i % 3 - 1);
  Hash hash;
  for (const int64_t* idxs :
       {static_cast<const int64_t*>(nullptr), static_cast<const int64_t*>(classes.data())}) {
    for (const auto& choice : choices_of(all.data(), scores.data(), idxs, kCount, rule, 700)) {
      hash.add(std::vector<T>{choice.score}).add(std::vector<uint32_t>{choice.index});
    }
  }
  report(kind, kTypeName<T>, hash);
}

template <typename T>
void rules(bool linear, double pixel) {
  const auto overlap = suppress_rule<T>(0.3, linear, 0, pixel);
  choices<T>(linear ? "soft_nms_linear" : "soft_nms_gaussian",
             SoftRule<T>{overlap, {T(0.4), linear}, T(0.01)});
  choices<T>(linear ? "diou_nms_inclusive" : "diou_nms", DiouRule<T>{overlap});
  choices<T>(linear ? "matrix_nms_linear" : "matrix_nms_gaussian",
             MatrixRule<T>{T(2), linear, T(0), T(pixel), T(0.05)});
}

}  // namespace

void soft_nms_family() {
  rules<float>(false, 0), rules<float>(true, 1);
  rules<double>(false, 1), rules<double>(true, 0);
}

}  // namespace selftest
