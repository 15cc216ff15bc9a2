// Instruction sets: the available ones, the one in use, and objects defined once per set.
#pragma once

#include <cstring>
#include <span>

namespace asyncopt {

// The compiled instruction sets that this processor supports, slowest first. The one in use is the
// last, or the one named by the environment variable ASYNCOPT_ISA.
std::span<const char* const> available_isas();
const char* picked_isa();

}  // namespace asyncopt

// Declares `const Type name` for each instruction set (asyncopt::avx2::space::name ...), and
// asyncopt::space::picked_##name(), which returns the object of the one in use.
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
    picked_isa(); /* rejects an unknown ASYNCOPT_ISA here, too */ \
    return baseline::space::name;                                 \
  }                                                               \
  }
#endif
