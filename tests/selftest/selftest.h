// What the parts of the self-test share: numbers that are the same everywhere, 16-bit types without torch, and hashes.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/math/box_math.h"

namespace selftest {

// splitmix64; only exact operations make floats of it, so every machine has the same inputs.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  // In [0, 1), with 20 bits.
  double unit() { return static_cast<double>(bits() >> 44) / 1048576.0; }
  double between(double low, double high) { return low + (high - low) * unit(); }

 private:
  uint64_t state_;
};

// A number that no kernel may stumble over.
inline double odd_number(Random& random) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kOdd[] = {kInf, -kInf, kNan, 0.0, -0.0, 1e-40, -1e-40, 6e4, -6e4, 1e30, -1e30};
  return kOdd[random.below(sizeof kOdd / sizeof kOdd[0])];
}

// Half and bfloat16 as bits, rounded to the nearest, ties to even.
template <int kMantissa>
struct Sixteen {
  uint16_t bits = 0;

  Sixteen() = default;
  explicit Sixteen(double value) {
    constexpr int kBias = kMantissa == 10 ? 15 : 127;
    if (value != value) {
      bits = 0x7fff;
      return;
    }
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    int exponent = 0;
    std::frexp(value, &exponent);
    exponent = exponent - 1 < 1 - kBias ? 1 - kBias : exponent - 1;
    const double step = std::ldexp(1.0, exponent - kMantissa);
    const double units = std::nearbyint(std::fabs(value) / step);
    if (std::isinf(value) || units * step >= std::ldexp(1.0, kBias + 1)) {
      bits = sign | static_cast<uint16_t>((2 * kBias + 1) << kMantissa);
      return;
    }
    const int64_t base = static_cast<int64_t>(exponent + kBias - 1) << kMantissa;
    bits = sign | static_cast<uint16_t>(base + static_cast<int64_t>(units));
  }
  explicit Sixteen(float value) : Sixteen(static_cast<double>(value)) {}
  operator float() const {
    constexpr int kBias = kMantissa == 10 ? 15 : 127;
    const int exponent = (bits & 0x7fff) >> kMantissa, rest = bits & ((1 << kMantissa) - 1);
    float size = std::ldexp(static_cast<float>(rest + (exponent > 0 ? 1 << kMantissa : 0)),
                            (exponent > 0 ? exponent : 1) - kBias - kMantissa);
    if (exponent == 2 * kBias + 1) size = rest != 0 ? NAN : INFINITY;
    return bits & 0x8000 ? -size : size;
  }
};
using Half = Sixteen<10>;
using BFloat16 = Sixteen<7>;

template <typename T>
constexpr const char* kTypeName = std::is_same_v<T, double>  ? "double"
                                  : std::is_same_v<T, float> ? "float"
                                  : std::is_same_v<T, Half>  ? "half"
                                                             : "bfloat16";

// FNV-1a of values. Every NaN counts as the same: its sign differs between processors.
class Hash {
 public:
  template <typename T>
  Hash& add(const T* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) add_one(values[i]);
    return *this;
  }
  template <typename T>
  Hash& add(const std::vector<T>& values) {
    return add(values.data(), static_cast<int64_t>(values.size()));
  }
  uint64_t value() const { return state_; }

 private:
  template <typename T>
  void add_one(const ssd_cuda::Vec4<T>& box) {
    add_one(box.x), add_one(box.y), add_one(box.z), add_one(box.w);
  }
  template <typename T>
  void add_one(const T& value) {
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    if constexpr (!std::is_integral_v<T>) {
      const auto wide = static_cast<ssd_cuda::acc_t<T>>(value);
      if (wide != wide) std::memset(bytes, 0x7f, sizeof(T));
    }
    for (unsigned char byte : bytes) state_ = (state_ ^ byte) * 0x100000001b3u;
  }
  uint64_t state_ = 0xcbf29ce484222325u;
};

// What kernels are told of threads; there is one.
extern int threads;

// Prints a line: kernel, type, instruction set, hash.
void report(const char* kernel, const char* type, const Hash& hash);

// count numbers around 0; one of odd_every is an odd one (0: none).
template <typename T>
std::vector<T> numbers(uint64_t seed, int64_t count, double size, int64_t odd_every = 0) {
  Random random(seed);
  std::vector<T> all;
  for (int64_t i = 0; i < count; ++i) {
    const bool odd = odd_every > 0 && random.below(odd_every) == 0;
    all.push_back(T(odd ? odd_number(random) : random.between(-size, size)));
  }
  return all;
}

// Boxes x1, y1, x2, y2 of [0, 1]; one of odd_every has an odd number, or is turned over (0: none).
template <typename T>
std::vector<ssd_cuda::Vec4<T>> boxes(uint64_t seed, int64_t count, int64_t odd_every = 0) {
  Random random(seed);
  std::vector<ssd_cuda::Vec4<T>> all;
  for (int64_t i = 0; i < count; ++i) {
    const double x = random.unit(), y = random.unit();
    ssd_cuda::Vec4<T> box{T(x), T(y), T(x + random.between(0.01, 0.4)),
                          T(y + random.between(0.01, 0.4))};
    if (odd_every > 0 && random.below(odd_every) == 0) {
      if (random.below(2) == 0) {
        box.z = T(odd_number(random));
      } else {
        box.x = box.z + T(0.5);
      }
    }
    all.push_back(box);
  }
  return all;
}
template <typename T>
std::vector<ssd_cuda::Vec4<T>> centers(uint64_t seed, int64_t count) {
  std::vector<ssd_cuda::Vec4<T>> all = boxes<T>(seed, count);
  for (auto& box : all) box = ssd_cuda::to_cxcywh(box);
  return all;
}

void math();
void boxes_family();
void priors_family();
void matching_family();
void mining_family();
void multibox_family();
void nms_family();
void detect_family();
void soft_nms_family();
void focal_family();
void fusion_family();

}  // namespace selftest
