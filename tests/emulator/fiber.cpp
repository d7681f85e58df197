#include "fiber.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_ASSEMBLY
#else
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 * 1024;  // red zones make frames several times larger
#else
constexpr std::size_t kStackBytes = 64 * 1024;
#endif
constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kSlabStacks = 128;
constexpr std::size_t kSlabBytes = kSlabStacks * (kStackBytes + kGuardBytes);

#if defined(__SANITIZE_ADDRESS__)
Fiber* g_host = nullptr;  // whoever resumed the running fibre
#endif

}  // namespace

#if defined(EMULATOR_ASSEMBLY)

// swapcontext makes a system call per switch to save a signal mask nobody changes; this saves what the System V ABI
// says a call preserves, and takes a few nanoseconds.
extern "C" void emulator_switch_stack(void** save, void* load)
    __attribute__((visibility("hidden")));
asm(R"(
.text
.globl emulator_switch_stack
.hidden emulator_switch_stack
.type emulator_switch_stack, @function
emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch_stack, .-emulator_switch_stack
)");

static void make_context(Fiber& fiber, unsigned char* top, void (*entry)()) {
  // What emulator_switch_stack pops: six registers, then the entry as return address. The ABI wants the stack
  // pointer 8 past a multiple of 16 on entry.
  auto* words = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 8; ++i) words[i] = nullptr;
  words[6] = reinterpret_cast<void*>(entry);
  fiber.context = words;
}
static void swap(Fiber& from, Fiber& to) { emulator_switch_stack(&from.context, to.context); }
static void forget_context(Fiber&) {}

#else

static ucontext_t* context_of(Fiber& fiber) {
  if (!fiber.context) fiber.context = new ucontext_t;
  return static_cast<ucontext_t*>(fiber.context);
}
static void make_context(Fiber& fiber, unsigned char* top, void (*entry)()) {
  ucontext_t* context = context_of(fiber);
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack;
  context->uc_stack.ss_size = static_cast<std::size_t>(top - fiber.stack);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
static void swap(Fiber& from, Fiber& to) { swapcontext(context_of(from), context_of(to)); }
static void forget_context(Fiber& fiber) { delete static_cast<ucontext_t*>(fiber.context); }

#endif

FiberPool::~FiberPool() { keep(0); }

void FiberPool::keep(std::size_t count) {
  while (!slabs_.empty() && (slabs_.size() - 1) * kSlabStacks >= count) {
    const std::size_t first = (slabs_.size() - 1) * kSlabStacks;
    for (std::size_t i = first; i < fibers_.size(); ++i) forget_context(fibers_[i]);
    fibers_.resize(std::min(first, fibers_.size()));
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(slabs_.back(), kSlabBytes);  // for what is mapped there next
#endif
    munmap(slabs_.back(), kSlabBytes);
    slabs_.pop_back();
  }
}

void FiberPool::grow(std::size_t count) {
  while (fibers_.size() < count) {
    void* slab = mmap(nullptr, kSlabBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED) throw std::bad_alloc();
    slabs_.push_back(static_cast<unsigned char*>(slab));
    for (std::size_t i = 0; i < kSlabStacks; ++i) {
      unsigned char* guard = slabs_.back() + i * (kStackBytes + kGuardBytes);
      if (mprotect(guard, kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
      fibers_.push_back({nullptr, guard + kGuardBytes, kStackBytes});
    }
  }
}

void FiberPool::prepare(std::size_t i, void (*entry)()) {
  grow(i + 1);
  Fiber& fiber = fibers_[i];
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack,
                              fiber.stack_bytes);  // an abandoned fibre leaves its red zones
#endif
  // Stacks start on different cache lines, or every thread of a block would fight for the same sets.
  const std::size_t color = i % 32 * 128;
  make_context(fiber, fiber.stack + fiber.stack_bytes - color, entry);
}

bool FiberPool::owns(const void* address) const {
  const auto* byte = static_cast<const unsigned char*>(address);
  for (const unsigned char* slab : slabs_) {
    if (byte >= slab && byte < slab + kSlabBytes) return true;
  }
  return false;
}

void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool leaving) {
#if defined(__SANITIZE_ADDRESS__)
  if (!from.stack) g_host = &from;
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(leaving ? nullptr : &fake_stack, to.stack, to.stack_bytes);
  swap(from, to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  swap(from, to);
#endif
}

void arrived() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (g_host && !g_host->stack) {  // the sanitizer knows the host's stack; nobody else does
    g_host->stack = static_cast<unsigned char*>(const_cast<void*>(bottom));
    g_host->stack_bytes = bytes;
  }
#endif
}

}  // namespace emulator
