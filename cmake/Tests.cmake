# One executable and one ctest entry for each tests/cpp/test_*.cc; the other files there are helpers
# that every test links.
file(GLOB test_sources CONFIGURE_DEPENDS tests/cpp/test_*.cc)
file(GLOB helper_sources CONFIGURE_DEPENDS tests/cpp/*.cc)
list(REMOVE_ITEM helper_sources ${test_sources})

# Newer kernels place mappings where the sanitizers of older compilers (gcc 12's among them) do not
# expect any, and the program ends before main(); so place them at fixed addresses where possible.
set(launcher "")
if(ASYNCOPT_SANITIZE)
  set(launcher setarch ${CMAKE_HOST_SYSTEM_PROCESSOR} -R)
  execute_process(COMMAND ${launcher} true RESULT_VARIABLE refused OUTPUT_QUIET ERROR_QUIET)
  if(refused)
    message(WARNING "setarch -R does not work here: if sanitized tests end before main(), lower "
                    "the sysctl vm.mmap_rnd_bits to 28.")
    set(launcher "")
  endif()
endif()

# ThreadSanitizer sees one process, and does not know that a robust mutex changes hands at a death.
if(ASYNCOPT_SANITIZE STREQUAL "thread")
  list(FILTER test_sources EXCLUDE REGEX "processes\\.cc$")
endif()

foreach(source IN LISTS test_sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source} ${helper_sources})
  target_link_libraries(${name} PRIVATE asyncopt_engine asyncopt_flags)
  target_include_directories(${name} PRIVATE tests/cpp)
  target_compile_options(${name} PRIVATE -UNDEBUG)
  set_target_properties(${name} PROPERTIES ENABLE_EXPORTS ON)  # of tests/cpp/openmp.cc
  add_test(NAME ${name} COMMAND ${launcher} $<TARGET_FILE:${name}>)
  set_tests_properties(${name} PROPERTIES
    ENVIRONMENT "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1;\
ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1;\
UBSAN_OPTIONS=print_stacktrace=1")
endforeach()

if(TARGET asyncopt_kernels_avx2)
  foreach(isa IN ITEMS avx2 avx512)
    add_test(NAME isa_symbols_${isa} COMMAND ${CMAKE_COMMAND}
      -DNM=${CMAKE_NM} -DISA=${isa} "-DOBJECTS=$<TARGET_OBJECTS:asyncopt_kernels_${isa}>"
      -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/check_isa_symbols.cmake)
  endforeach()
endif()

# The device of tests/cpp/host_device.h for tests/gpu, which find it here.
if(NOT ASYNCOPT_SANITIZE)
  add_library(host_device MODULE tests/gpu/host_device.cc)
  target_include_directories(host_device PRIVATE src tests/cpp)
  target_link_libraries(host_device PRIVATE asyncopt_flags)
  set_target_properties(host_device PROPERTIES PREFIX "")
endif()
