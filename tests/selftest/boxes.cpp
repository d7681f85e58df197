// The boxes and the priors family.
#include "boxes/cpu/box_coder.h"
#include "boxes/cpu/iou_matrix.h"
#include "priors/cpu/fill_level.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

template <typename T>
void coder(const char* kind, BoxFormat format, bool own_variances, bool symmetric) {
  constexpr int64_t kPriors = 67, kRows = 3 * kPriors + 20;
  const auto priors = format == BoxFormat::kXyxy ? boxes<T>(1, kPriors) : centers<T>(1, kPriors);
  std::vector<Vec4<T>> variances(kPriors);
  for (int64_t p = 0; p < kPriors; ++p) variances[p] = {T(0.1), T(0.2), T(1 + p), T(0.3)};
  const Coder<T> coder{.priors = priors.data(),
                       .variances = own_variances ? variances.data() : nullptr,
                       .variance = {T(0.1), T(0.1), T(0.2), T(0.2)},
                       .prior_rows = kPriors,
                       .format = format,
                       .clamp = {symmetric ? T(4.135) : T(INFINITY), symmetric}};
  const auto truths = boxes<T>(2, kRows, 5), grad = boxes<T>(3, kRows, 11);
  const auto flat = numbers<T>(4, 4 * kRows, 30, 9);
  std::vector<Vec4<T>> codes(kRows), result(kRows);
  std::memcpy(codes.data(), flat.data(), flat.size() * sizeof(T));
  const std::string name = kind;
  code_boxes<CoderOp::kEncode>(coder, truths.data(), grad.data(), kRows, result.data());
  report(("encode_" + name).c_str(), kTypeName<T>, Hash().add(result));
  code_boxes<CoderOp::kDecode>(coder, codes.data(), grad.data(), kRows, result.data());
  report(("decode_" + name).c_str(), kTypeName<T>, Hash().add(result));
  code_boxes<CoderOp::kEncodeBackward>(coder, truths.data(), grad.data(), kRows, result.data());
  report(("encode_backward_" + name).c_str(), kTypeName<T>, Hash().add(result));
  code_boxes<CoderOp::kDecodeBackward>(coder, codes.data(), grad.data(), kRows, result.data());
  report(("decode_backward_" + name).c_str(), kTypeName<T>, Hash().add(result));
}

template <typename T>
void all_boxes() {
  coder<T>("centers", BoxFormat::kCxcywh, false, false);
  coder<T>("corners", BoxFormat::kXyxy, true, true);
  for (int64_t columns : {1, 15, 41, 1500}) {
    const auto a = boxes<T>(5, 70, 6), b = boxes<T>(6, columns, 6);
    std::vector<T> result(a.size() * columns);
    iou_matrix(a.data(), a.size(), b.data(), columns, T(1e-6), result.data());
    report(("box_iou_" + std::to_string(columns)).c_str(), kTypeName<T>, Hash().add(result));
  }
}

template <typename R, typename Out>
void level(PriorClip clip, bool corners, bool box_major) {
  const double sizes[] = {0.1, 0.2, 0.3, 0.15, 1.5, 0.7};
  const PriorLevel level{
      .first_row = 0, .rows = 37, .columns = 33, .boxes = 3, .divisor_x = 33.25, .divisor_y = 37};
  const PriorStyle style{.offset = 0.5,
                         .scale_x = 300,
                         .scale_y = 1,
                         .clip = clip,
                         .corners = corners,
                         .box_major = box_major};
  std::vector<Vec4<Out>> rows(37 * 33 * 3);
  fill_level<R>(level, style, sizes, rows.data());
  const std::string name = "priors_" + std::to_string(static_cast<int>(clip)) +
                           (corners ? "_corners" : "") + (box_major ? "_box_major" : "") +
                           (sizeof(R) == 4 ? "_single" : "");
  report(name.c_str(), kTypeName<Out>, Hash().add(rows));
}

}  // namespace

void boxes_family() {
  all_boxes<float>();
  all_boxes<double>();
}

void priors_family() {
  for (int clip = 0; clip < 4; ++clip) {
    level<float, float>(PriorClip(clip), clip % 2 == 0, clip < 2);
    level<double, float>(PriorClip(clip), clip % 2 != 0, clip < 2);
    level<double, double>(PriorClip(clip), false, false);
  }
}

}  // namespace selftest
