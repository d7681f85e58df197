// Zero tensors on the CPU, for gradients of which a few rows will be written.
#pragma once

#include <sys/mman.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstring>

#include "torch_api.h"

namespace ssd_cuda {

// Zeros for memory that will not be read soon: streaming stores skip the caches and do not read the lines that they
// replace. Of 23 MB on one core they take 1.4 ms, memset 3.2 ms.
inline void stream_zeros(char* memory, std::size_t bytes) {
#if defined(__SSE2__)
  const std::size_t head =
      std::min(bytes, (16 - reinterpret_cast<std::uintptr_t>(memory) % 16) % 16);
  std::memset(memory, 0, head);
  std::size_t i = head;
  for (; i + 16 <= bytes; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(memory + i), _mm_setzero_si128());
  }
  std::memset(memory + i, 0, bytes - i);
  _mm_sfence();  // other threads see them before anything written afterwards
#else
  std::memset(memory, 0, bytes);
#endif
}

// A contiguous zero tensor. Above kMinPageBytes its memory is mapped, not cleared: a page is zeroed by the system when
// it is first touched. Clearing a [32, 8732, 91] float gradient takes 37 ms on one core, nearly all of it page
// faults, and all but 1% of its rows stay zero. Smaller memory is reused by malloc, its pages there already
// (glibc maps nothing below 32 MB once such sizes were freed): clearing it is the cheaper way.
inline Tensor zeros_for_rows(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype,
                             std::size_t element_bytes) {
  constexpr std::size_t kMinPageBytes = std::size_t{32} << 20;
  constexpr std::size_t kMinStreamBytes = std::size_t{1} << 20;  // less stays in the cache
  constexpr int64_t kGrain = int64_t{1} << 18;
  std::size_t bytes = element_bytes;
  for (const int64_t n : size) bytes *= static_cast<std::size_t>(n);
  void* pages = MAP_FAILED;
  if (bytes >= kMinPageBytes) {
    pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (pages == MAP_FAILED) {
    if (bytes < kMinStreamBytes) return torch::stable::new_zeros(like, size, dtype);
    const Tensor zeros = torch::stable::new_empty(like, size, dtype);
    char* memory = out<char>(zeros);
    parallel_grains(static_cast<int64_t>(bytes), kGrain, [&](int64_t begin, int64_t end) {
      stream_zeros(memory + begin, static_cast<std::size_t>(end - begin));
    });
    return zeros;
  }
  std::vector<int64_t> strides(size.size());
  int64_t stride = 1;
  for (std::size_t d = size.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= size[d];
  }
  return torch::stable::from_blob(pages, size, strides, like.device(), dtype,
                                  [bytes](void* p) { munmap(p, bytes); });
}

}  // namespace ssd_cuda
