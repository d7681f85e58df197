// The one function of libtorch_cuda that the bindings call, found at run time. Linked, the binary would not load
// under a CPU-only torch. Declared weak, it would stay null under a CUDA torch as well: Python loads torch's
// libraries locally, and libtorch_cpu, which this binary is linked to, does not depend on libtorch_cuda.
#pragma once

#include <dlfcn.h>

#include <cstdint>

namespace ssd_cuda {

// Returns 0 and the cudaStream_t that torch uses on a card; the type of aoti_torch_get_current_cuda_stream.
using CurrentCudaStream = std::int32_t (*)(std::int32_t device_index, void** stream);

// Null under a torch without CUDA.
inline CurrentCudaStream current_cuda_stream() {
  static const CurrentCudaStream found = [] {
    constexpr const char* kName = "aoti_torch_get_current_cuda_stream";
    void* symbol = dlsym(RTLD_DEFAULT, kName);
    if (symbol == nullptr) {
      void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      if (library != nullptr) symbol = dlsym(library, kName);
    }
    return reinterpret_cast<CurrentCudaStream>(symbol);
  }();
  return found;
}

}  // namespace ssd_cuda
