#include "asyncopt/base/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace asyncopt {
namespace {

std::vector<const char*> detect() {
  std::vector<const char*> found{"baseline"};
#ifdef ASYNCOPT_HAVE_X86_ISAS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back("avx2");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back("avx512");
#endif
  return found;
}

const char* pick(std::span<const char* const> found) {
  const char* const wanted = std::getenv("ASYNCOPT_ISA");
  if (wanted == nullptr || *wanted == '\0') return found.back();
  std::string known;
  for (const char* const isa : found) {
    if (std::strcmp(isa, wanted) == 0) return isa;
    known += known.empty() ? isa : std::string(", ") + isa;
  }
  throw std::invalid_argument("ASYNCOPT_ISA: expected one of " + known +
                              " (what this build and processor have), got '" + wanted +
                              "'; correct or unset it");
}

}  // namespace

std::span<const char* const> available_isas() {
  static const std::vector<const char*> found = detect();
  return found;
}
const char* picked_isa() {
  static const char* const picked = pick(available_isas());
  return picked;
}

}  // namespace asyncopt
