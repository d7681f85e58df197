// Stands in for cuda_runtime.h, cuda_fp16.h and cuda_bf16.h where device code is compiled by g++ and run on a CPU.
#pragma once

#include "atomics.h"
#include "half.h"
#include "intrinsics.h"
#include "launch.h"
#include "runtime.h"
#include "sync.h"
#include "types.h"
