"""csrc/common/cuda/once.h: what launch() asks of the CUDA runtime, it asks once for a kernel on a device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = r"""
#include <cstdio>
#include <thread>
#include <vector>
#include "common/cuda/once.h"

int main() {
  ssd_cuda::OncePerKernel once;
  int asked = 0, kernels[2];
  const auto ask = [&](int kernel, int device, int answer) {
    return once(&kernels[kernel], device, 0, [&] { return ++asked, answer; });
  };
  for (int i = 0; i < 5; ++i) ask(0, 0, 0);
  std::printf("%d ", asked);  // one kernel, one device
  for (int i = 0; i < 5; ++i) ask(0, 1, 0), ask(1, 0, 0);
  std::printf("%d ", asked);  // another device, another kernel
  const int failed = ask(1, 1, 7), again = ask(1, 1, 7), done = ask(1, 1, 0), later = ask(1, 1, 7);
  std::printf("%d %d%d%d%d ", asked, failed, again, done, later);  // a failure is told and tried again
  asked = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] { for (int i = 0; i < 100; ++i) ask(0, 2 + i % 3, 0); });
  }
  for (auto& thread : threads) thread.join();
  std::printf("%d ", asked);  // three devices, whatever the threads
  ssd_cuda::PerKernel<int> known;
  asked = 0;
  const auto find = [&](int kernel, int device) {
    return known(&kernels[kernel], device, 0, [&] { return std::optional(++asked); });
  };
  const int first = find(0, 0), same = find(0, 0), card = find(0, 1), other = find(1, 0);
  std::printf("%d%d%d%d %d ", first, same, card, other, asked);  // each answer is kept
  ssd_cuda::PerKernel<int, std::pair<const void*, int>> launches;
  asked = 0;
  const auto launch = [&](int threads) {
    return launches({&kernels[0], threads}, 0, 0, [&] { return std::optional(++asked); });
  };
  const int small = launch(32), large = launch(64), small_again = launch(32);
  std::printf("%d%d%d ", small, large, small_again);  // of each launch of a kernel
  const auto fail = [&](std::optional<int> answer) {
    return launches({&kernels[1], 32}, 0, 9, [&] { return answer; });
  };
  const int none = fail(std::nullopt), found = fail(5), kept = fail(6);
  std::printf("%d%d%d\n", none, found, kept);  // what is not found out is asked again
}
"""


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a compiler")
def test_a_question_is_asked_once_for_a_kernel_on_a_device(tmp_path):
    (tmp_path / "once.cpp").write_text(PROGRAM)
    build = ["c++", "-std=c++20", "-pthread", "-I", str(ROOT / "csrc"), "once.cpp", "-o", "once"]
    subprocess.run(build, cwd=tmp_path, check=True)
    told = subprocess.run([tmp_path / "once"], capture_output=True, text=True, check=True).stdout
    assert told == "1 3 6 7700 3 1123 3 121 955\n"
