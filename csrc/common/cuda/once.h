// Something that is done once for a kernel on a device: what the answer costs is paid by the first launch alone.
#pragma once

#include <mutex>
#include <set>
#include <utility>

namespace ssd_cuda {

class OncePerKernel {
 public:
  // fn() for the first call with this kernel and device, `success` for the later ones; what fails is tried again.
  template <typename Status, typename Fn>
  Status operator()(const void* kernel, int device, Status success, const Fn& fn) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (done_.count({device, kernel}) > 0) return success;
    const Status status = fn();
    if (status == success) done_.insert({device, kernel});
    return status;
  }

 private:
  std::mutex mutex_;
  std::set<std::pair<int, const void*>> done_;
};

}  // namespace ssd_cuda
