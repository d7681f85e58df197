// Something that is done once for a kernel on a device: what the answer costs is paid by the first launch alone.
#pragma once

#include <map>
#include <mutex>
#include <optional>
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

// What is so for a kernel, or for a launch of it, on a device, found out by its first launch. What fn() does not find out is
// `otherwise` this time, and asked again.
template <typename Value, typename Kernel = const void*>
class PerKernel {
 public:
  template <typename Fn>
  Value operator()(const Kernel& kernel, int device, Value otherwise, const Fn& fn) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = values_.find({device, kernel});
    if (known != values_.end()) return known->second;
    const std::optional<Value> found = fn();
    if (!found) return otherwise;
    return values_[{device, kernel}] = *found;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<int, Kernel>, Value> values_;
};

}  // namespace ssd_cuda
