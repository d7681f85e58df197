// Guarded buffers.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "scheduler.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace emulator {
namespace {

constexpr std::size_t kGuard = 1024, kAlignment = 256;
constexpr unsigned char kGuardByte = 0xc5;
// From here on a buffer is of pages that exist when they are touched, zero and not poison, so that indices beyond 2^31
// can be met without the memory.
constexpr std::size_t kHuge = std::size_t{1} << 26;

std::vector<const GuardedBuffer*>& live_buffers() {
  static auto& buffers = *new std::vector<const GuardedBuffer*>;  // outlives every buffer
  return buffers;
}

}  // namespace

void check_buffers() {
  for (const GuardedBuffer* buffer : live_buffers()) buffer->check();
}

GuardedBuffer::GuardedBuffer(std::size_t bytes, std::string what, bool shared, std::size_t misalign)
    : bytes_(bytes), what_(std::move(what)) {
  allocated_ = kGuard + (misalign + bytes + kAlignment - 1) / kAlignment * kAlignment + kGuard;
  void* memory = bytes >= kHuge ? mmap(nullptr, allocated_, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                                : std::aligned_alloc(kAlignment, allocated_);
  if (!memory || memory == MAP_FAILED) throw std::bad_alloc();
  allocation_ = static_cast<unsigned char*>(memory);
  payload_ = allocation_ + kGuard + misalign;
  unsigned char* const end = payload_ + bytes;
  std::fill(allocation_, payload_, kGuardByte);
  std::fill(end, allocation_ + allocated_, kGuardByte);
  live_buffers().push_back(this);
  checker_register(payload_, bytes_, what_, shared);
  fill(poison());
  ASAN_POISON_MEMORY_REGION(allocation_, static_cast<std::size_t>(payload_ - allocation_));
  ASAN_POISON_MEMORY_REGION(payload_ + bytes_,
                            static_cast<std::size_t>(allocation_ + allocated_ - payload_) - bytes_);
}

GuardedBuffer::~GuardedBuffer() {
  std::erase(live_buffers(), this);
  checker_forget(payload_);
  // The guards alone: the shadow of pages that nobody has touched would take an eighth of them.
  ASAN_UNPOISON_MEMORY_REGION(allocation_, static_cast<std::size_t>(payload_ - allocation_));
  ASAN_UNPOISON_MEMORY_REGION(
      payload_ + bytes_, static_cast<std::size_t>(allocation_ + allocated_ - payload_) - bytes_);
  if (bytes_ >= kHuge) {
    munmap(allocation_, allocated_);
  } else {
    std::free(allocation_);
  }
}

void GuardedBuffer::fill(unsigned char byte) {
  if (bytes_ < kHuge) std::memset(payload_, byte, bytes_);
}

#if defined(__SANITIZE_ADDRESS__)
void GuardedBuffer::check() const {}  // the guards are poisoned: the access itself was reported
#else
void GuardedBuffer::check() const {
  for (const unsigned char* p = allocation_; p != allocation_ + allocated_; ++p) {
    if (p == payload_) p += bytes_;
    if (p == allocation_ + allocated_) break;
    if (*p == kGuardByte) continue;
    const std::ptrdiff_t offset = p - payload_;
    fail("a kernel wrote outside " + what_ + " of " + std::to_string(bytes_) + " bytes: at byte " +
         std::to_string(offset));
  }
}
#endif

}  // namespace emulator
