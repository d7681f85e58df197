// Stands in for cuda_runtime.h, cuda_fp16.h and cuda_bf16.h where device code is compiled by g++ and run on a CPU.
#pragma once

#include "emulator/atomics.h"
#include "emulator/half.h"
#include "emulator/intrinsics.h"
#include "emulator/launch.h"
#include "emulator/runtime.h"
#include "emulator/sync.h"
#include "emulator/types.h"
