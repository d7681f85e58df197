// The soft-NMS family.
#include "soft_nms/cpu/soft_nms.h"

#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

template <typename T>
void soft(const char* kind, bool linear, double pixel) {
  constexpr int64_t kCount = 900;
  const auto all = boxes<T>(61, kCount, 30);
  const std::vector<T> scores = numbers<T>(62, kCount, 1, 25);
  std::vector<int64_t> classes;
  for (int64_t i = 0; i < kCount; ++i) classes.push_back(i % 3 - 1);
  const SoftRule<T> rule{suppress_rule<T>(0.3, linear, 0, pixel), {T(0.4), linear}, T(0.01)};
  Hash hash;
  for (const int64_t* idxs :
       {static_cast<const int64_t*>(nullptr), static_cast<const int64_t*>(classes.data())}) {
    for (const auto& choice :
         soft_nms_choices(all.data(), scores.data(), idxs, kCount, rule, 700)) {
      hash.add(std::vector<T>{choice.score}).add(std::vector<uint32_t>{choice.index});
    }
  }
  report((std::string("soft_nms_") + kind).c_str(), kTypeName<T>, hash);
}

}  // namespace

void soft_nms_family() {
  soft<float>("gaussian", false, 0), soft<float>("linear", true, 1);
  soft<double>("gaussian", false, 1), soft<double>("linear", true, 0);
}

}  // namespace selftest
