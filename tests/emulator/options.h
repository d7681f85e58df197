// Tables of options (common/options.h) from Python dicts: the same tables, by the same names, as the op's.
#pragma once

#include <string>

#include "common/options.h"
#include "emulator/binding.h"

namespace emulator {

template <typename T>
void read_option(const py::object& value, const char* name, T& field) {
  if constexpr (std::is_enum_v<T>) {
    if (!ssd_cuda::from_word(value.cast<std::string>(), field)) {
      throw py::value_error(std::string(name) + " must be one of " + ssd_cuda::all_words<T>());
    }
  } else if constexpr (std::is_same_v<T, ssd_cuda::OpenInt>) {
    field = value.cast<int64_t>();
  } else {
    field = value.cast<T>();
  }
}

// A dict must have every option of the table and no other: a test that passes another is a wrong test.
template <ssd_cuda::OptionTable Options>
Options options_of(const py::dict& values) {
  Options options;
  Options::visit(options, [&](const char* name, auto& field) {
    if (!values.contains(name)) throw py::key_error(std::string("no option ") + name);
    read_option(values[name], name, field);
  });
  if (values.size() != Options::kCount)
    throw py::key_error("an option that the table does not have");
  return options;
}

}  // namespace emulator

namespace pybind11::detail {
template <typename T>
struct type_caster<T, std::enable_if_t<ssd_cuda::OptionTable<T>>> {
  PYBIND11_TYPE_CASTER(T, const_name("dict"));

  bool load(handle source, bool) {
    if (!isinstance<dict>(source)) return false;
    value = emulator::options_of<T>(reinterpret_borrow<dict>(source));
    return true;
  }
};
}  // namespace pybind11::detail
