// Ops on torch's stack. An op is a function of tensors and of tables of options (common/options.h); the options of a
// table are keyword-only arguments of its schema, so that nobody passes one by its place.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "common/options.h"
#include "torch_api.h"

namespace ssd_cuda {

template <typename T>
struct IsNumbers : std::false_type {};
template <std::size_t N>
struct IsNumbers<Numbers<N>> : std::true_type {};

// The type of an option in a schema. An enum travels as one of its words.
template <typename T>
constexpr const char* schema_type() {
  if constexpr (std::is_enum_v<T>) {
    return "str";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return "int";
  } else if constexpr (std::is_same_v<T, OpenInt>) {
    return "SymInt";
  } else if constexpr (std::is_same_v<T, double>) {
    return "float";
  } else if constexpr (std::is_same_v<T, Ints>) {
    return "int[]";
  } else {
    static_assert(std::is_same_v<T, Doubles> || IsNumbers<T>::value, "no type of a schema");
    return "float[]";
  }
}

// name(tensors, *, options) -> results
template <OptionTable Options>
inline std::string op_schema(const std::string& name, const std::string& tensors,
                             const std::string& results) {
  std::string schema = name + "(" + tensors + ", *";
  const Options options{};
  Options::visit(options, [&](const char* option, const auto& field) {
    schema +=
        std::string(", ") + schema_type<std::remove_cvref_t<decltype(field)>>() + " " + option;
  });
  return schema + ") -> " + results;
}

template <OptionTable Options>
inline void define_op(torch::stable::detail::StableLibrary& m, const std::string& name,
                      const std::string& tensors, const std::string& results) {
  m.def(op_schema<Options>(name, tensors, results).c_str());
}

// Takes the arguments of an op from the stack, each by its type. What is wrong with an option is told when all of them
// are taken: until then the stack owns the rest.
class ArgumentReader {
 public:
  explicit ArgumentReader(StableIValue* stack) : next_(stack) {}

  template <typename T>
  T read() {
    if constexpr (OptionTable<T>) {
      T table;
      T::visit(table, [&](const char* name, auto& field) { read_option(name, field); });
      return table;
    } else {
      return take<T>();
    }
  }
  const std::string& problem() const { return problem_; }

 private:
  template <typename T>
  T take() {
    return torch::stable::detail::to<T>(*next_++);
  }
  template <typename T>
  void read_option(const char* name, T& field) {
    if constexpr (std::is_enum_v<T>) {
      const auto word = take<std::string>();
      if (!from_word(word, field)) {
        note(std::string(name) + " must be one of " + all_words<T>() + ", got " + word);
      }
    } else if constexpr (IsNumbers<T>::value) {
      const auto list = take<Doubles>();
      if (list.size() == field.size()) {
        std::copy(list.begin(), list.end(), field.begin());
      } else {
        note(std::string(name) + " must hold " + std::to_string(field.size()) + " numbers, got " +
             std::to_string(list.size()));
      }
    } else if constexpr (std::is_same_v<T, OpenInt>) {
      field = take<int64_t>();
    } else {
      field = take<T>();
    }
  }
  void note(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
  }

  StableIValue* next_;
  std::string problem_;
};

template <typename T>
constexpr std::size_t stack_places() {
  if constexpr (OptionTable<T>) {
    return T::kCount;
  } else {
    return 1;
  }
}

template <auto op>
struct Boxed;
template <typename Result, typename... Parameters, Result (*op)(Parameters...)>
struct Boxed<op> {
  static void call(StableIValue* stack, uint64_t num_arguments, uint64_t num_results) {
    constexpr std::size_t kPlaces = (0 + ... + stack_places<std::remove_cvref_t<Parameters>>());
    SSD_CHECK(num_arguments == kPlaces, "the schema has ", num_arguments,
              " arguments, but the function takes ", kPlaces);
    ArgumentReader reader(stack);
    const std::tuple<std::remove_cvref_t<Parameters>...> arguments{
        reader.read<std::remove_cvref_t<Parameters>>()...};  // braces: in this order
    SSD_CHECK(reader.problem().empty(), reader.problem());
    if constexpr (std::is_void_v<Result>) {
      std::apply(op, arguments);
    } else {
      put(stack, std::apply(op, arguments), num_results);
    }
  }

 private:
  static void put(StableIValue* stack, const Tensor& result, uint64_t) {
    stack[0] = torch::stable::detail::from(result);
  }
  template <typename... Tensors>
  static void put(StableIValue* stack, const std::tuple<Tensors...>& results,
                  uint64_t num_results) {
    SSD_CHECK(num_results == sizeof...(Tensors), "the schema has ", num_results,
              " results, but the function gives ", sizeof...(Tensors));
    std::apply(
        [&](const auto&... result) { ((*stack++ = torch::stable::detail::from(result)), ...); },
        results);
  }
};

#define SSD_BOX(op) (&::ssd_cuda::Boxed<(op)>::call)

}  // namespace ssd_cuda
