// The arguments of a launch with their scratch memory, which is one tensor.
#pragma once

#include "common/cuda/workspace.h"
#include "torch_api.h"

namespace ssd_cuda {

template <typename Args>
struct Planned {
  Tensor memory;
  Args args;
};

// Args(parts..., take) takes memory as workspace.h says: for its size first, then for use. On the card of a tensor.
template <typename Args, typename... Parts>
inline Planned<Args> planned(const Tensor& where, const Parts&... parts) {
  WorkspaceBytes size;
  (void)Args(parts..., size);
  const Tensor memory = empty_on(where, {size.bytes()}, ScalarType::Byte);
  return {memory, Args(parts..., WorkspaceMemory(out<char>(memory)))};
}

}  // namespace ssd_cuda
