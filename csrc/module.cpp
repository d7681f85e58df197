// The Python module ssd_cuda._C: what the build was made of. Importing it registers the ops.
#include <pybind11/pybind11.h>

#include <string>

#include "common/cpu/simd.h"
#include "common/torch/cuda_stream.h"
#include "common/torch/torch_api.h"

#ifndef SSD_BUILD_CUDA
#define SSD_BUILD_CUDA ""
#endif
#ifndef SSD_BUILD_ARCHS
#define SSD_BUILD_ARCHS ""
#endif

namespace py = pybind11;

void ssd_cuda::run_tasks(int64_t tasks, void (*run)(int64_t, int64_t, void*), void* context) {
  torch::stable::parallel_for(0, tasks, 1,
                              [&](int64_t first, int64_t last) { run(first, last, context); });
}

int ssd_cuda::task_threads() { return static_cast<int>(torch::stable::get_num_threads()); }

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts of ssd_cuda; the ops live in torch.ops.ssd_cuda.";
  m.def("build_info", [] {
    py::dict info;
    info["torch"] = SSD_BUILD_TORCH;                    // version the binary was compiled against
    info["cuda"] = std::string(SSD_BUILD_CUDA);         // CUDA version, or "" for a CPU-only build
    info["cuda_archs"] = std::string(SSD_BUILD_ARCHS);  // "8.0;9.0+PTX"
    info["compiler"] = std::string(__VERSION__);
    info["simd_levels"] = ssd_cuda::SimdChoice::names(";");  // that this processor has, best first
    return info;
  });
  m.def("simd_level", [] { return std::string(ssd_cuda::simd_name(ssd_cuda::simd_level())); });
  m.def("set_simd_level",
        [](const std::string& name) { return ssd_cuda::SimdChoice::get().set(name); });
  m.def("simd_problem", [] { return ssd_cuda::SimdChoice::get().problem(); });
  m.def("finds_cuda_stream", [] { return ssd_cuda::current_cuda_stream() != nullptr; });
}
