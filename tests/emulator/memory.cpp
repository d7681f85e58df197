// Guarded buffers, and the static shared variables of the module.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

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

std::vector<SharedVariable> find_static_shared();
std::vector<const GuardedBuffer*>& live_buffers() {
  static std::vector<const GuardedBuffer*> buffers;
  return buffers;
}

}  // namespace

void check_buffers() {
  for (const GuardedBuffer* buffer : live_buffers()) buffer->check();
}

GuardedBuffer::GuardedBuffer(std::size_t bytes, std::string what, std::size_t misalign)
    : bytes_(bytes), what_(std::move(what)) {
  allocated_ = kGuard + (misalign + bytes + kAlignment - 1) / kAlignment * kAlignment + kGuard;
  allocation_ = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, allocated_));
  if (!allocation_) throw std::bad_alloc();
  payload_ = allocation_ + kGuard + misalign;
  std::memset(allocation_, kGuardByte, allocated_);
  live_buffers().push_back(this);
  checker_register(payload_, bytes_, what_);
  fill(poison());
  ASAN_POISON_MEMORY_REGION(allocation_, static_cast<std::size_t>(payload_ - allocation_));
  ASAN_POISON_MEMORY_REGION(payload_ + bytes_,
                            static_cast<std::size_t>(allocation_ + allocated_ - payload_) - bytes_);
}

GuardedBuffer::~GuardedBuffer() {
  std::erase(live_buffers(), this);
  checker_forget(payload_);
  ASAN_UNPOISON_MEMORY_REGION(allocation_, allocated_);
  std::free(allocation_);
}

void GuardedBuffer::fill(unsigned char byte) { std::memset(payload_, byte, bytes_); }
void GuardedBuffer::mark_initialized() { checker_mark_initialized(payload_); }

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

const std::vector<SharedVariable>& static_shared() {
  static const std::vector<SharedVariable> variables = find_static_shared();
  return variables;
}

void poison_static_shared(unsigned char byte) {
  for (const SharedVariable& variable : static_shared()) std::memset(variable.address, byte, variable.bytes);
}

namespace {

thread_local int g_tls_anchor = 0;  // makes the TLS block exist before it is looked for

struct Module {
  const void* inside;
  std::string path;
  unsigned char* tls;
};

Module find_module() {
  volatile int touch = g_tls_anchor;
  (void)touch;
  Module module{reinterpret_cast<const void*>(&find_module), {}, nullptr};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        auto* wanted = static_cast<Module*>(data);
        const auto inside = reinterpret_cast<ElfW(Addr)>(wanted->inside);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          const ElfW(Addr) begin = info->dlpi_addr + header.p_vaddr;
          if (header.p_type != PT_LOAD || inside < begin || inside >= begin + header.p_memsz) continue;
          wanted->path = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe";
          wanted->tls = static_cast<unsigned char*>(info->dlpi_tls_data);
          return 1;
        }
        return 0;
      },
      &module);
  return module;
}

// __shared__ variables are the thread-local statics of functions: TLS symbols whose mangled name starts with _ZZ.
std::vector<SharedVariable> find_static_shared() {
  const Module module = find_module();
  std::ifstream stream(module.path, std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(stream)), {});
  std::vector<SharedVariable> variables;
  ElfW(Ehdr) header;
  if (file.size() < sizeof(header)) fail("cannot read the symbols of " + module.path);
  std::memcpy(&header, file.data(), sizeof(header));
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  std::memcpy(sections.data(), file.data() + header.e_shoff, header.e_shnum * sizeof(ElfW(Shdr)));
  bool found_table = false;
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB) continue;
    found_table = true;
    const char* names = file.data() + sections[section.sh_link].sh_offset;
    for (std::size_t i = 0; i < section.sh_size / sizeof(ElfW(Sym)); ++i) {
      ElfW(Sym) symbol;
      std::memcpy(&symbol, file.data() + section.sh_offset + i * sizeof(symbol), sizeof(symbol));
      const char* mangled = names + symbol.st_name;
      if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS || std::strncmp(mangled, "_ZZ", 3) != 0) continue;
      if (std::strstr(mangled, "pybind11")) continue;
      char* readable = abi::__cxa_demangle(mangled, nullptr, nullptr, nullptr);
      variables.push_back({module.tls + symbol.st_value, symbol.st_size, readable ? readable : mangled});
      std::free(readable);
    }
  }
  if (!found_table) fail("the module is stripped: its shared variables cannot be found");
  return variables;
}

}  // namespace
}  // namespace emulator
