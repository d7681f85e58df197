// Devices, and the shared memory that kernels have asked for.
#include "device.h"

#include <map>
#include <utility>

#include "scheduler.h"

namespace emulator {
namespace {

constexpr std::size_t kKilo = 1024;
constexpr Device kDevices[] = {
    {75, 40, 1024, 16, 64 * kKilo, 64 * kKilo},      // T4
    {80, 108, 2048, 32, 163 * kKilo, 164 * kKilo},   // A100
    {86, 82, 1536, 16, 99 * kKilo, 100 * kKilo},     // RTX 3090
    {87, 16, 1536, 16, 163 * kKilo, 164 * kKilo},    // Orin
    {89, 128, 1536, 24, 99 * kKilo, 100 * kKilo},    // RTX 4090
    {90, 132, 2048, 32, 227 * kKilo, 228 * kKilo},   // H100
    {100, 148, 2048, 32, 227 * kKilo, 228 * kKilo},  // B200
    {110, 20, 1536, 24, 227 * kKilo, 228 * kKilo},   // Thor
    {120, 170, 1536, 24, 99 * kKilo, 100 * kKilo},   // RTX 5090
    {91, 4, 2048, 32, 227 * kKilo, 228 * kKilo},     // a part of an H100
};
int g_device = 5;

using Allowed = std::map<std::pair<const void*, int>, std::size_t>;
Allowed& allowed() {
  static auto& table = *new Allowed;
  return table;
}

}  // namespace

const Device& device() { return kDevices[g_device]; }
int device_index() { return g_device; }
void set_architecture(int architecture) {
  for (const Device& known : kDevices) {
    if (known.architecture == architecture) {
      g_device = static_cast<int>(&known - kDevices);
      return;
    }
  }
  fail("no device of architecture " + std::to_string(architecture));
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  const std::size_t most = device().shared_per_block;
  if (bytes < 0 || static_cast<std::size_t>(bytes) + static_shared_of(kernel) > most) {
    return cudaErrorInvalidValue;
  }
  allowed()[{kernel, g_device}] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

bool may_have_shared(const void* kernel, std::size_t bytes) {
  const std::size_t own = static_shared_of(kernel);
  if (own + bytes <= kUnaskedShared) return true;
  const auto asked = allowed().find({kernel, g_device});
  return asked != allowed().end() && bytes <= asked->second;
}

}  // namespace emulator
