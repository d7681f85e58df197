// exp and log, conversions, keys, lists and zeros: what every family is made of.
#include "common/cpu/exp_simd.h"
#include "common/cpu/half_simd.h"
#include "common/cpu/lanes.h"
#include "common/cpu/stream_zeros.h"
#include "mining/cpu/row_selector.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

// Of all magnitudes: random exponents and mantissas, and odd numbers.
template <typename T>
std::vector<T> all_magnitudes(int64_t count) {
  Random random(3);
  std::vector<T> all = numbers<T>(4, count, 100, 9);
  for (int64_t i = 0; i < count; i += 2)
    all[i] = bit_copy<T>(static_cast<Ordered<T>>(random.bits()));
  return all;
}

template <typename T>
void exp_and_log() {
  const std::vector<T> x = all_magnitudes<T>(4096);
  std::vector<T> exps(x.size()), logs(x.size()), scalar(x.size());
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<T, decltype(bytes)::value / sizeof(T)>;
    for (std::size_t i = 0; i < x.size(); i += kLanesOf<V>) {
      store_pack(&exps[i], exp_fixed_pack(load_pack<V>(&x[i])));
      store_pack(&logs[i], log_by<PackOps>(load_pack<V>(&x[i])));
    }
  });
  for (std::size_t i = 0; i < x.size(); ++i) scalar[i] = exp_fixed(x[i]);
  report("exp", kTypeName<T>, Hash().add(exps));
  report("exp", kTypeName<T>, Hash().add(scalar));
  for (std::size_t i = 0; i < x.size(); ++i) scalar[i] = log_fixed(x[i]);
  report("log", kTypeName<T>, Hash().add(logs));
  report("log", kTypeName<T>, Hash().add(scalar));
}

// Sums that lie on a tie of floats but for a rest far below, and odd ones: fma_pack is an emulation where there is no
// instruction.
void fused() {
  Random random(5);
  std::vector<float> a, b, c = all_magnitudes<float>(4096);
  for (float& sum : c) {
    const double x = 1 + random.unit(), y = 1 + random.unit();
    a.push_back(float(random.below(2) == 0 ? x : -x));
    b.push_back(float(random.below(8) == 0 ? odd_number(random) : y));
    if (random.below(4) == 0) continue;
    const float product = a.back() * b.back(), unit = std::ldexp(product, -24);
    sum = random.below(2) == 0 ? std::ldexp(unit, -static_cast<int>(random.below(90))) : -product;
    a.back() = float(int64_t(a.back() * 4096) / 4096.0);
    b.back() = random.below(2) == 0 ? b.back() : 1 + std::ldexp(1.0f, -12);
  }
  std::vector<float> vectors(c.size()), numbers(c.size());
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<float, decltype(bytes)::value / 4>;
    for (std::size_t i = 0; i < c.size(); i += kLanesOf<V>) {
      store_pack(&vectors[i],
                 fma_pack(load_pack<V>(&a[i]), load_pack<V>(&b[i]), load_pack<V>(&c[i])));
    }
    for (std::size_t i = 0; i < c.size(); ++i)
      numbers[i] = fma_number<decltype(bytes)::value>(a[i], b[i], c[i]);
  });
  report("fma", "float", Hash().add(vectors));
  report("fma", "float", Hash().add(numbers));
  for (std::size_t i = 0; i < c.size(); ++i) numbers[i] = fma_rn(a[i], b[i], c[i]);
  report("fma", "float", Hash().add(numbers));
}

template <typename S>
void conversion() {
  std::vector<S> every(65536);
  for (int bits = 0; bits < 65536; ++bits) every[bits].bits = static_cast<uint16_t>(bits);
  std::vector<float> vectors(every.size()), scalars(every.begin(), every.end());
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<float, decltype(bytes)::value / 4>;
    for (std::size_t i = 0; i < every.size(); i += kLanesOf<V>) {
      store_pack(&vectors[i], load_floats<V>(&every[i]));
    }
  });
  report("load_floats", kTypeName<S>, Hash().add(vectors));
  report("load_floats", kTypeName<S>, Hash().add(scalars));
}

template <typename T>
void keys_and_lists() {
  using U = Ordered<T>;
  const std::vector<T> x = all_magnitudes<T>(1003);
  std::vector<U> keys(x.size());
  order_keys(x.data(), x.size(), keys.data());
  report("order_keys", kTypeName<T>, Hash().add(keys));
  std::vector<int64_t> list(x.size());
  list.resize(list_in_range(keys.data(), keys.size(), ordered_key(T(-50)), ordered_key(T(50)),
                            list.data()));
  report("list_in_range", kTypeName<T>, Hash().add(list));
}

}  // namespace

void math() {
  exp_and_log<float>();
  exp_and_log<double>();
  fused();
  conversion<Half>();
  conversion<BFloat16>();
  keys_and_lists<float>();
  keys_and_lists<double>();
  for (int first = 0; first < 20; first += 3) {
    std::vector<char> memory(300, 1);
    stream_zeros(memory.data() + first, 257);
    report(("stream_zeros_" + std::to_string(first)).c_str(), "bytes", Hash().add(memory));
  }
}

}  // namespace selftest
