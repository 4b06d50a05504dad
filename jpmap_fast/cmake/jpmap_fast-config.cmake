# find_package(jpmap_fast), for programs that run what Restorer.export wrote: jpmap_fast::jpmap_fast,
# and jpmap_fast::cuda besides where kernels for GPUs were built. Asks the interpreter at hand, or
# -DPython_EXECUTABLE=..., where torch and the libraries are.
cmake_minimum_required(VERSION 3.18)
find_package(Python REQUIRED COMPONENTS Interpreter)
include("${CMAKE_CURRENT_LIST_DIR}/torch.cmake")
execute_process(
  COMMAND
    "${Python_EXECUTABLE}" -c
    "import os, jpmap_fast
from jpmap_fast import _C
print(jpmap_fast.__version__, os.path.join(os.path.dirname(_C.__file__), 'lib'), sep='\\n')"
  OUTPUT_VARIABLE JPMAP_FAST_FACTS
  ERROR_VARIABLE JPMAP_FAST_ERROR
  RESULT_VARIABLE JPMAP_FAST_RESULT
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT JPMAP_FAST_RESULT EQUAL 0)
  message(FATAL_ERROR "jpmap_fast: ${Python_EXECUTABLE} cannot import it:\n${JPMAP_FAST_ERROR}")
endif()
string(REPLACE "\n" ";" JPMAP_FAST_FACTS "${JPMAP_FAST_FACTS}")
list(GET JPMAP_FAST_FACTS 0 jpmap_fast_VERSION)
list(GET JPMAP_FAST_FACTS 1 JPMAP_FAST_LIB_DIR)

# Programs name no symbol of these libraries, which register operators by being loaded. In one
# flag: CMake would leave out one that comes again.
function(jpmap_fast_library name)
  list(JOIN ARGN "," libraries)
  add_library(jpmap_fast::${name} INTERFACE IMPORTED)
  target_link_libraries(
    jpmap_fast::${name} INTERFACE "-Wl,--push-state,--no-as-needed,${libraries},--pop-state")
  target_link_options(
    jpmap_fast::${name} INTERFACE "LINKER:-rpath,${JPMAP_FAST_LIB_DIR},-rpath,${TORCH_LIB_DIR}")
endfunction()

jpmap_fast_library(jpmap_fast "${JPMAP_FAST_LIB_DIR}/libjpmap_fast.so"
                   "${TORCH_LIB_DIR}/libtorch.so" "${TORCH_LIB_DIR}/libtorch_cpu.so"
                   "${TORCH_LIB_DIR}/libc10.so")
target_link_libraries(jpmap_fast::jpmap_fast INTERFACE torch_headers)
# By its name, before the compiler's own -lstdc++: some compilers link its code instead, and torch
# does not understand the locale of a program with facets of its own.
target_link_libraries(jpmap_fast::jpmap_fast INTERFACE "-l:libstdc++.so.6")
# What torch's libraries need they find themselves, when a program runs.
target_link_options(jpmap_fast::jpmap_fast INTERFACE LINKER:--allow-shlib-undefined)
target_include_directories(jpmap_fast::jpmap_fast INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../include")
target_compile_definitions(jpmap_fast::jpmap_fast
                           INTERFACE JPMAP_FAST_VERSION="${jpmap_fast_VERSION}")
if(TORCH_CUDA_VERSION AND EXISTS "${JPMAP_FAST_LIB_DIR}/libjpmap_fast_cuda.so")
  jpmap_fast_library(cuda "${JPMAP_FAST_LIB_DIR}/libjpmap_fast_cuda.so"
                     "${TORCH_LIB_DIR}/libtorch_cuda.so" "${TORCH_LIB_DIR}/libc10_cuda.so")
  target_link_libraries(jpmap_fast::cuda INTERFACE jpmap_fast::jpmap_fast)
endif()
