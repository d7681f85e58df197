// The options of an op as one table: their names, C++ types and order, once. The table is a macro of a macro, X(type, name)
// for each option; SSD_OPTION_STRUCT(NmsSettings, SSD_NMS_OPTIONS) makes a struct with a field for each.
//
// The schema of the op and its parsing (common/torch/boxing.h) and the bindings of the emulator visit the fields; Python
// passes the options by these names, and torch refuses one that is unknown or missing.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ssd_cuda {

using Ints = std::vector<int64_t>;
using Doubles = std::vector<double>;

// An int64_t that a traced program may leave open, as the sizes that it follows from: a SymInt of the schema. What arrives
// is a number.
struct OpenInt {
  int64_t value = 0;

  constexpr OpenInt() = default;
  constexpr OpenInt(int64_t number) : value(number) {}
  constexpr operator int64_t() const { return value; }
};

// A list of exactly N numbers.
template <std::size_t N>
using Numbers = std::array<double, N>;

// How Python spells the values of an enum that is an option, in their order from 0: kWords of a specialisation.
template <typename E>
struct Choice;

// The value that a word names; false where it names none.
template <typename E>
inline bool from_word(std::string_view word, E& value) {
  for (std::size_t i = 0; i < Choice<E>::kWords.size(); ++i) {
    if (word != Choice<E>::kWords[i]) continue;
    value = static_cast<E>(i);
    return true;
  }
  return false;
}

template <typename E>
inline std::string all_words() {
  std::string list;
  for (const std::string_view word : Choice<E>::kWords) {
    if (!list.empty()) list += ", ";
    list += word;
  }
  return list;
}

// Asks for no call of visit: nvcc 13.0 denies one of a table that holds vectors.
template <typename T>
concept OptionTable = requires {
  { T::kCount } -> std::convertible_to<std::size_t>;
};

#define SSD_OPTION_FIELD(type, name) type name{};
#define SSD_OPTION_VISIT(type, name) fn(#name, table.name);
#define SSD_OPTION_COUNT(type, name) +1

// visit(table, fn) calls fn(name, field) in the order of the table.
#define SSD_OPTION_STRUCT(Struct, TABLE)                             \
  struct Struct {                                                    \
    TABLE(SSD_OPTION_FIELD)                                          \
    static constexpr std::size_t kCount = 0 TABLE(SSD_OPTION_COUNT); \
    template <typename Table, typename Fn>                           \
    static void visit(Table& table, const Fn& fn) {                  \
      TABLE(SSD_OPTION_VISIT)                                        \
    }                                                                \
  }

}  // namespace ssd_cuda
