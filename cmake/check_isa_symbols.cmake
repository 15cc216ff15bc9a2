# Fails when an object compiled with extra instructions defines a symbol that could be shared with
# other objects: the linker keeps one definition of a weak symbol, and if it kept this one, a
# processor without the instructions would die of it. Symbols that name the instruction set's own
# namespace cannot be shared.
#
#   cmake -DNM=nm -DISA=avx2 -DOBJECTS="a.o;b.o" -P check_isa_symbols.cmake
set(shared "")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --demangle --defined-only ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE ";" "," symbols "${symbols}")
  string(REPLACE "\n" ";" symbols "${symbols}")
  list(FILTER symbols INCLUDE REGEX "^[0-9a-f]+ [TWVuBDR] ")
  list(FILTER symbols EXCLUDE REGEX "asyncopt::${ISA}::")
  list(APPEND shared ${symbols})
endforeach()
if(shared)
  list(JOIN shared "\n  " shared)
  message(FATAL_ERROR "compiled for ${ISA}, but outside namespace asyncopt::${ISA}:\n  ${shared}")
endif()
