// What the emulator reads off its own ELF file: the static shared variables, and the source line of an instruction.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>

#include "access.h"
#include "device.h"

namespace emulator {
namespace {

thread_local int g_tls_anchor = 0;  // makes the TLS block exist before it is looked for

struct Module {
  std::string path;
  uintptr_t base = 0, begin = UINTPTR_MAX, end = 0;
  unsigned char* tls = nullptr;
};

Module find_module() {
  volatile int touch = g_tls_anchor;
  (void)touch;
  Module found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        Module module;
        module.path = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe";
        module.base = info->dlpi_addr;
        module.tls = static_cast<unsigned char*>(info->dlpi_tls_data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          module.begin = std::min<uintptr_t>(module.begin, module.base + header.p_vaddr);
          module.end =
              std::max<uintptr_t>(module.end, module.base + header.p_vaddr + header.p_memsz);
        }
        const auto here = reinterpret_cast<uintptr_t>(&find_module);
        if (here < module.begin || here >= module.end) return 0;
        *static_cast<Module*>(data) = module;
        return 1;
      },
      &found);
  return found;
}

const Module& this_module() {
  static const Module module = find_module();
  return module;
}

template <typename T>
T read_at(const std::string& file, std::size_t offset) {
  T value;
  if (offset + sizeof(T) > file.size()) fail("cannot read the symbols of " + this_module().path);
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

// What the symbol table says. __shared__ variables are the thread-local statics of functions: TLS symbols whose
// mangled name is _ZZ, the rest of the function's, E, and their own.
struct Symbols {
  std::vector<SharedVariable> variables;
  std::vector<std::string> mangled;              // of the variables
  std::map<const void*, std::string> functions;  // mangled
};
Symbols read_symbols() {
  std::ifstream stream(this_module().path, std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(stream)), {});
  const auto header = read_at<ElfW(Ehdr)>(file, 0);
  auto section_at = [&](std::size_t i) {
    return read_at<ElfW(Shdr)>(file, header.e_shoff + i * sizeof(ElfW(Shdr)));
  };
  Symbols found;
  bool found_table = false;
  for (std::size_t s = 0; s < header.e_shnum; ++s) {
    const auto section = section_at(s);
    if (section.sh_type != SHT_SYMTAB) continue;
    found_table = true;
    const char* names = file.data() + section_at(section.sh_link).sh_offset;
    for (std::size_t i = 0; i < section.sh_size / sizeof(ElfW(Sym)); ++i) {
      const auto symbol = read_at<ElfW(Sym)>(file, section.sh_offset + i * sizeof(ElfW(Sym)));
      const char* mangled = names + symbol.st_name;
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value != 0) {
        found.functions[reinterpret_cast<const void*>(this_module().base + symbol.st_value)] =
            mangled;
      }
      const bool ours = std::strncmp(mangled, "_ZZ", 3) == 0 && !std::strstr(mangled, "pybind11");
      if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS || !ours) continue;
      char* readable = abi::__cxa_demangle(mangled, nullptr, nullptr, nullptr);
      found.mangled.push_back(mangled);
      found.variables.push_back(
          {this_module().tls + symbol.st_value, symbol.st_size, readable ? readable : mangled});
      std::free(readable);
    }
  }
  if (!found_table) fail("the module is stripped: its shared variables cannot be found");
  return found;
}

const Symbols& symbols() {
  static const Symbols& found = *new Symbols(read_symbols());
  return found;
}

}  // namespace

const std::vector<SharedVariable>& static_shared() { return symbols().variables; }

std::size_t static_shared_of(const void* kernel) {
  const auto function = symbols().functions.find(kernel);
  if (function == symbols().functions.end()) fail("a kernel without a symbol");
  const std::string prefix = "_ZZ" + function->second.substr(2) + "E";
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < symbols().mangled.size(); ++i) {
    if (symbols().mangled[i].starts_with(prefix)) bytes += symbols().variables[i].bytes;
  }
  return bytes;
}

void poison_static_shared(unsigned char byte) {
  for (const SharedVariable& variable : static_shared()) {
    std::memset(variable.address, byte, variable.bytes);
  }
}

bool in_module(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return at >= this_module().begin && at < this_module().end;
}

std::string source_line(const void* code) {
  char command[4096], line[1024] = "";
  // The call before the return address is the one that belongs to the line.
  std::snprintf(command, sizeof(command), "addr2line -e '%s' 0x%zx 2>/dev/null",
                this_module().path.c_str(),
                reinterpret_cast<uintptr_t>(code) - 1 - this_module().base);
  if (FILE* pipe = popen(command, "r")) {
    if (!std::fgets(line, sizeof(line), pipe)) line[0] = 0;
    pclose(pipe);
  }
  line[std::strcspn(line, "\n")] = 0;
  return line[0] ? line : "no source line";
}

}  // namespace emulator
