// One allocation for all that a launcher needs. A launcher's arguments are built from a function that hands out parts, so
// that their list stands once: built with WorkspaceBytes they tell the size, with WorkspaceMemory they are the real ones.
// The emulator hands out guarded arrays instead.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ssd_cuda {

constexpr std::size_t kWorkspaceAlignment =
    256;  // what cudaMalloc gives, and every vector load needs less

template <typename T>
inline std::size_t workspace_part(int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

class WorkspaceBytes {
 public:
  template <typename T>
  T* operator()(int64_t count, T) const {
    bytes_ += workspace_part<T>(count);
    return nullptr;
  }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }

 private:
  mutable std::size_t bytes_ = 0;
};

class WorkspaceMemory {
 public:
  explicit WorkspaceMemory(char* memory) : next_(memory) {}

  template <typename T>
  T* operator()(int64_t count, T) const {
    T* part = reinterpret_cast<T*>(next_);
    next_ += workspace_part<T>(count);
    return part;
  }

 private:
  mutable char* next_;
};

}  // namespace ssd_cuda
