// What every instruction set has of its own, and which is used.
#pragma once

#include <cstring>

#include "asyncopt/kernels/kernels.h"

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
#define ASYNCOPT_PER_ISA(space, Type, name)                     \
  namespace asyncopt::baseline::space {                         \
  extern const Type name;                                       \
  }                                                             \
  namespace asyncopt::space {                                   \
  inline Type picked_##name() { return baseline::space::name; } \
  }
#endif
