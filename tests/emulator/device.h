// The card that launchers ask about: its limits, and what a kernel may have of shared memory.
#pragma once

#include "runtime.h"

#pragma GCC visibility push(hidden)

namespace emulator {

// Of one compute capability (CUDA C++ Programming Guide, technical specifications); multiprocessors of a usual card.
struct Device {
  int architecture, multiprocessors, threads_per_multiprocessor, blocks_per_multiprocessor;
  // Bytes; above kUnaskedShared a kernel asks. Registers are not counted: g++ does not know them.
  std::size_t shared_per_block, shared_per_multiprocessor;

  bool clusters() const { return architecture >= 90; }
};
inline constexpr std::size_t kUnaskedShared = 48 * 1024;
inline constexpr std::size_t kSharedReserved = 1024;  // of each block, by the driver

const Device& device();
int device_index();
// 75, 80, 86, 87, 89, 90, 91 (no card: a part of one), 100, 110 or 120. At first 90. Each is a device of its own number, as
// more than one card has.
void set_architecture(int architecture);

// The bytes of the static shared variables that a kernel declares itself; a function that it calls may declare more.
std::size_t static_shared_of(const void* kernel);
// What cudaFuncSetAttribute notes: the dynamic shared memory that a kernel asks for on this device.
cudaError_t allow_shared(const void* kernel, int bytes);
// Whether the device launches the kernel with so much dynamic shared memory.
bool may_have_shared(const void* kernel, std::size_t bytes);

}  // namespace emulator

#pragma GCC visibility pop
