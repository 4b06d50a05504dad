# An INTERFACE target `torch_headers` and the paths of the interpreter's torch, for the extension and
# for programs that run what it exported.
# find_package(Torch) is avoided on purpose: on a CUDA build of torch it demands a full toolkit, and
# it overrides CMAKE_CUDA_ARCHITECTURES.
execute_process(
  COMMAND
    "${Python_EXECUTABLE}" -c
    "import os, torch
from torch.utils.cpp_extension import include_paths
lib = os.path.join(os.path.dirname(torch.__file__), 'lib')
print(torch.__version__, torch.version.cuda or '', int(torch.compiled_with_cxx11_abi()), lib,
      '|'.join(include_paths()), sep='\\n')"
  OUTPUT_VARIABLE TORCH_FACTS
  ERROR_VARIABLE TORCH_ERROR
  RESULT_VARIABLE TORCH_RESULT
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT TORCH_RESULT EQUAL 0)
  message(FATAL_ERROR "jpmap_fast: ${Python_EXECUTABLE} cannot import torch (>= 2.11 is needed to "
                      "build):\n${TORCH_ERROR}")
endif()
string(REPLACE "\n" ";" TORCH_FACTS "${TORCH_FACTS}")
list(GET TORCH_FACTS 0 TORCH_VERSION)
list(GET TORCH_FACTS 1 TORCH_CUDA_VERSION)
list(GET TORCH_FACTS 2 TORCH_CXX11_ABI)
list(GET TORCH_FACTS 3 TORCH_LIB_DIR)
list(GET TORCH_FACTS 4 TORCH_INCLUDES)
string(REPLACE "|" ";" TORCH_INCLUDES "${TORCH_INCLUDES}")
if(TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "jpmap_fast: torch >= 2.11 is needed, ${Python_EXECUTABLE} has "
                      "${TORCH_VERSION}; upgrade it with pip install -U torch")
endif()

add_library(torch_headers INTERFACE)
target_include_directories(torch_headers SYSTEM INTERFACE ${TORCH_INCLUDES})
target_compile_definitions(torch_headers INTERFACE _GLIBCXX_USE_CXX11_ABI=${TORCH_CXX11_ABI})
target_compile_features(torch_headers INTERFACE cxx_std_20)
