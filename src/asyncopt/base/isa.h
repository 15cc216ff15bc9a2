// Instruction sets: which are there, which is used, and objects that each has of its own.
#pragma once

#include <cstring>
#include <span>

namespace asyncopt {

// The instruction sets compiled in that this processor has, slowest first; the one in use is the
// last, or the one that the environment variable ASYNCOPT_ISA names.
std::span<const char* const> available_isas();
const char* picked_isa();

}  // namespace asyncopt

// Declares `const Type name` of each instruction set (asyncopt::avx2::space::name ...), and
// asyncopt::space::picked_##name(), which is that of the one in use.
#ifdef ASYNCOPT_HAVE_X86_ISAS
#define ASYNCOPT_PER_ISA(space, Type, name)                                   \
  namespace asyncopt::baseline::space {                                       \
  extern const Type name;                                                     \
  }                                                                           \
  namespace asyncopt::avx2::space {                                           \
  extern const Type name;                                                     \
  }                                                                           \
  namespace asyncopt::avx512::space {                                         \
  extern const Type name;                                                     \
  }                                                                           \
  namespace asyncopt::space {                                                 \
  inline Type picked_##name() {                                               \
    if (std::strcmp(picked_isa(), "avx512") == 0) return avx512::space::name; \
    if (std::strcmp(picked_isa(), "avx2") == 0) return avx2::space::name;     \
    return baseline::space::name;                                             \
  }                                                                           \
  }
#else
#define ASYNCOPT_PER_ISA(space, Type, name)                       \
  namespace asyncopt::baseline::space {                           \
  extern const Type name;                                         \
  }                                                               \
  namespace asyncopt::space {                                     \
  inline Type picked_##name() {                                   \
    picked_isa(); /* refuses an unknown ASYNCOPT_ISA here, too */ \
    return baseline::space::name;                                 \
  }                                                               \
  }
#endif
