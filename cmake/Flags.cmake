# How Refract's own code is compiled: strict, and with arithmetic that means the same everywhere.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_FLAGS_RELEASE "-O3 -g1")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")

add_library(refract_flags INTERFACE)
target_compile_definitions(refract_flags INTERFACE _GNU_SOURCE OMPI_SKIP_MPICXX
  $<$<CONFIG:Debug>:RF_DEBUG=1>)
target_compile_options(refract_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wvla -Werror
  # No contraction, no reassociation: docs/determinism.md. The two -fno- flags change no result.
  -ffp-contract=off -fno-math-errno -fno-trapping-math)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(refract_flags INTERFACE -march=x86-64-v3)
endif()
if(REFRACT_SANITIZE)
  target_compile_options(refract_flags INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(refract_flags INTERFACE -fsanitize=address,undefined)
endif()
target_link_libraries(refract_flags INTERFACE OpenMP::OpenMP_C Threads::Threads m)
