// numpy arrays as the memory of a kernel, and the head of a module that exposes launchers to Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "cuda.h"

namespace emulator {

namespace py = pybind11;

// How numpy spells T: bfloat16, which it does not have, travels as the uint16 of its bits.
template <typename T>
py::dtype dtype_of() {
  if constexpr (std::is_same_v<T, __half>) {
    return py::dtype("float16");
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return py::dtype("uint16");
  } else {
    return py::dtype::of<T>();
  }
}

// A C-contiguous array in guarded memory. As a parameter it is a copy of a numpy array of exactly this dtype;
// built from a shape it is full of poison, which nothing may read before it is written.
template <typename T>
class Array {
 public:
  // A name is no std::string: a literal would become a bool before it became one.
  explicit Array(std::vector<py::ssize_t> shape, const char* name = "an output")
      : shape_(std::move(shape)), buffer_(allocate(name)) {}
  Array(std::vector<py::ssize_t> shape, T value, const char* name = "an output")
      : Array(std::move(shape), name) {
    for (std::size_t i = 0; i < size(); ++i) data()[i] = value;
    checker_mark_initialized(data(), bytes());
  }
  // shift: elements behind the begin of a vector of 16 bytes.
  explicit Array(const py::array& source, std::size_t shift = 0)
      : shape_(source.shape(), source.shape() + source.ndim()),
        buffer_(allocate("an input", shift)) {
    if (bytes()) std::memcpy(buffer_->data(), source.data(), bytes());
    checker_mark_initialized(data(), bytes());
  }

  T* data() const { return static_cast<T*>(buffer_->data()); }
  operator T*() const { return data(); }
  py::ssize_t shape(std::size_t axis) const { return shape_.at(axis); }
  std::size_t size() const {
    std::size_t n = 1;
    for (const py::ssize_t extent : shape_) n *= static_cast<std::size_t>(extent);
    return n;
  }
  std::size_t bytes() const { return size() * sizeof(T); }
  py::array numpy() const {
    py::array result(dtype_of<T>(), shape_);
    if (bytes()) std::memcpy(result.mutable_data(), data(), bytes());
    return result;
  }

 private:
  std::shared_ptr<GuardedBuffer> allocate(const std::string& name, std::size_t shift = 0) const {
    return std::make_shared<GuardedBuffer>(bytes(), name, false, shift * sizeof(T));
  }
  std::vector<py::ssize_t> shape_;
  std::shared_ptr<GuardedBuffer> buffer_;
};

// null for None.
template <typename T>
T* pointer(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

// The array as rows of a struct, as a kernel takes them: rows<Vec4<float>>(boxes).
template <typename Row, typename T>
Row* rows(const Array<T>& array) {
  return reinterpret_cast<Row*>(array.data());
}
template <typename Row, typename T>
Row* rows(const std::optional<Array<T>>& array) {
  return reinterpret_cast<Row*>(pointer(array));
}

// The workspace of a launcher, an array for each part: an access past one of them is seen. memory(count, T{}) gives a part.
class Memory {
 public:
  template <typename T>
  T* operator()(int64_t count, T) const {
    Array<T> part({static_cast<py::ssize_t>(count)}, "a part of the workspace");
    parts_->push_back(std::make_shared<Array<T>>(part));
    return part;
  }

 private:
  std::shared_ptr<std::vector<std::shared_ptr<void>>> parts_ =
      std::make_shared<std::vector<std::shared_ptr<void>>>();
};

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

inline void define_common(py::module_& m) {
  m.def("set_seed", &set_seed, "Chooses the order of threads, warps and blocks, and the poison.");
  m.def("set_architecture", &set_architecture,
        "Chooses the card: 75, 80, 86, 87, 89, 90, 100, 110, 120.");
  m.def("set_last_blocks", &set_last_blocks, "Runs only the last blocks of each grid; 0: all.");
}

}  // namespace emulator

namespace pybind11::detail {
template <typename T>
struct type_caster<emulator::Array<T>> {
  static constexpr auto name = const_name("numpy.ndarray");
  template <typename U>
  using cast_op_type = movable_cast_op_type<U>;

  // No conversion, ever: a test that passes the wrong dtype is a wrong test.
  bool load(handle source, bool) {
    if (!isinstance<array>(source)) return false;
    const auto input = reinterpret_borrow<array>(source);
    if (!input.dtype().is(emulator::dtype_of<T>()) &&
        !input.dtype().equal(emulator::dtype_of<T>())) {
      return false;
    }
    value_.emplace(array::ensure(input, array::c_style));
    return true;
  }
  static handle cast(const emulator::Array<T>& value, return_value_policy, handle) {
    return value.numpy().release();
  }
  operator emulator::Array<T>&() { return *value_; }
  operator emulator::Array<T>*() { return &*value_; }
  operator emulator::Array<T>&&() && { return std::move(*value_); }

 private:
  std::optional<emulator::Array<T>> value_;
};
}  // namespace pybind11::detail

// The body of a module: EMULATOR_MODULE(m) { m.def("iou_f32", &iou<float>); }
#define EMULATOR_MODULE(m)                             \
  static void emulator_define(::pybind11::module_& m); \
  PYBIND11_MODULE(EMULATOR_MODULE_NAME, m) {           \
    ::emulator::define_common(m);                      \
    emulator_define(m);                                \
  }                                                    \
  static void emulator_define(::pybind11::module_& m)
