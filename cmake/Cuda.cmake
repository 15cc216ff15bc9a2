# asyncopt._cuda: the kernels of csrc/cuda and the devices that run them. Without nvcc, everything
# else works. CMAKE_CUDA_ARCHITECTURES picks other processors than those of the data centre.
set(no_cuda "")
if(ASYNCOPT_CUDA STREQUAL "OFF")
  set(no_cuda "ASYNCOPT_CUDA is OFF")
else()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)  # 90 with PTX, for what comes after
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(no_cuda "nvcc was not found, or does not work with this C++ compiler")
  else()
    enable_language(CUDA)
    find_package(CUDAToolkit)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12)
      set(no_cuda "nvcc is ${CMAKE_CUDA_COMPILER_VERSION}, and C++20 needs 12.0 or newer")
    elseif(NOT TARGET CUDA::cudart_static)
      set(no_cuda "the static CUDA runtime was not found")
    endif()
  endif()
endif()
if(no_cuda)
  if(ASYNCOPT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ASYNCOPT_CUDA is ON, but ${no_cuda}.")
  endif()
  message(STATUS "No CUDA kernels: ${no_cuda}")
  add_custom_target(_cuda)  # nothing; nor what an earlier build left
  file(GLOB left ${CMAKE_BINARY_DIR}/_cuda.*)
  if(left)
    file(REMOVE ${left})
  endif()
  return()
endif()

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cc)
file(GLOB kernel_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
add_library(asyncopt_cuda_kernels OBJECT ${kernel_sources})
target_include_directories(asyncopt_cuda_kernels PRIVATE src)
set_target_properties(asyncopt_cuda_kernels PROPERTIES
  CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_VISIBILITY_PRESET hidden)
# As the engine: no contraction, and the host's part as strict. Diagnostic 186 is about loops over
# no slots. A kernel that spilled registers would be slow: it does not compile.
target_compile_options(asyncopt_cuda_kernels PRIVATE
  -fmad=false -diag-suppress=186 -Xcompiler=-ffp-contract=off,-Wall,-Wextra
  "$<$<BOOL:${ASYNCOPT_WERROR}>:-Werror=all-warnings;-Xcompiler=-Werror;\
-Xptxas=-warn-spills,-warn-lmem-usage,-Werror>")

pybind11_add_module(_cuda MODULE NO_EXTRAS ${cuda_sources})
target_include_directories(_cuda PRIVATE src)
target_link_libraries(_cuda PRIVATE asyncopt_cuda_kernels CUDA::cudart_static asyncopt_flags)
