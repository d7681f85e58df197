// Memory of more than 2^32 elements, of which a few pages are touched: what a kernel is to read lies at the end of a buffer
// or behind a large stride. With set_last_blocks only the blocks that come to it are run.
#pragma once

#include <algorithm>

#include "binding.h"

namespace emulator {

template <typename T>
void put(const Array<T>& buffer, int64_t offset, const T* values, std::size_t count) {
  std::copy_n(values, count, buffer.data() + offset);
  checker_mark_initialized(buffer.data() + offset, count * sizeof(T));
}

// `count` elements that end in these.
template <typename T>
Array<T> ending_in(const Array<T>& values, int64_t count) {
  Array<T> buffer({count}, "a large input");
  put(buffer, count - static_cast<int64_t>(values.size()), values.data(), values.size());
  return buffer;
}
template <typename T>
Array<T> end_of(const Array<T>& buffer, int64_t count) {
  Array<T> result({count}, T{});
  std::copy_n(buffer.data() + buffer.size() - static_cast<std::size_t>(count), count,
              result.data());
  return result;
}

// Memory of a [images, P, columns] view: strides in elements.
template <typename View>
struct Spread {
  int64_t image, prior, column;  // strides

  // Neighbouring rows lie `step` apart, or columns where channels come first.
  static Spread of(int64_t priors, int64_t columns, int64_t step, bool channels_first) {
    if (channels_first) return {step * columns, 1, step};
    return {step * priors, step, 1};
  }
  View view(const Array<float>& buffer) const { return {buffer.data(), image, prior, column}; }

  // Memory with these values in their places, or with none of them written.
  Array<float> with(const Array<float>& values) const {
    Array<float> buffer = empty(values);
    visit(values, [&](std::size_t i, int64_t place) { put(buffer, place, values.data() + i, 1); });
    return buffer;
  }
  Array<float> empty(const Array<float>& like) const {
    return Array<float>({image * like.shape(0)}, "a large buffer");
  }
  Array<float> gather(const Array<float>& buffer, const Array<float>& like) const {
    Array<float> values({like.shape(0), like.shape(1), like.shape(2)}, 0.0f);
    visit(like, [&](std::size_t i, int64_t place) { values.data()[i] = buffer.data()[place]; });
    return values;
  }

 private:
  template <typename Fn>
  void visit(const Array<float>& like, const Fn& fn) const {
    std::size_t i = 0;
    for (int64_t b = 0; b < like.shape(0); ++b) {
      for (int64_t p = 0; p < like.shape(1); ++p) {
        for (int64_t c = 0; c < like.shape(2); ++c) fn(i++, b * image + p * prior + c * column);
      }
    }
  }
};

}  // namespace emulator
