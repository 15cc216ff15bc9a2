// Checks that end the test with the place, the case and the values where one fails.
#pragma once

#include <cstdio>
#include <sstream>
#include <string>

#include <unistd.h>

namespace asyncopt::test {

inline std::string current_case;  // current item of a loop over syncs, rules, sizes

// Safe in threads and forked children: unwinds nothing and runs no exit handler.
[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s [%s]\n", file, line, what.c_str(), current_case.c_str());
  _exit(1);
}

template <class A, class B>
[[noreturn]] void fail(const char* file, int line, const char* what, const A& a, const B& b) {
  std::ostringstream text;
  text.precision(17);
  text << what << ", got " << a << " and " << b;
  fail(file, line, text.str());
}

}  // namespace asyncopt::test

#define CHECK(condition) \
  ((condition) ? void() : ::asyncopt::test::fail(__FILE__, __LINE__, "expected " #condition))
#define CHECK_COMPARE(a, op, b)                                                               \
  [&](const auto& left, const auto& right) {                                                  \
    if (!(left op right))                                                                     \
      ::asyncopt::test::fail(__FILE__, __LINE__, "expected " #a " " #op " " #b, left, right); \
  }((a), (b))
#define CHECK_EQ(a, b) CHECK_COMPARE(a, ==, b)
#define CHECK_LE(a, b) CHECK_COMPARE(a, <=, b)
// The statement throws an Error whose message contains `part`.
#define CHECK_THROWS(Error, part, ...)                                                       \
  do {                                                                                       \
    std::string message = "nothing was thrown";                                              \
    try {                                                                                    \
      __VA_ARGS__;                                                                           \
    } catch (const Error& error) {                                                           \
      message = error.what();                                                                \
    }                                                                                        \
    if (message.find(part) == std::string::npos)                                             \
      ::asyncopt::test::fail(__FILE__, __LINE__, "expected " #Error " with", part, message); \
  } while (0)
