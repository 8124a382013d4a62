# What Refract stands on. Each missing library is named with its packages before configuring fails.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

set(REFRACT_MISSING "")
macro(refract_need name found debian fedora conda)
  if(NOT ${found})
    string(APPEND REFRACT_MISSING
      "\n  ${name}: apt install ${debian} | dnf install ${fedora} | conda install -c conda-forge ${conda}")
  endif()
endmacro()

find_package(MPI COMPONENTS C)
refract_need(MPI MPI_C_FOUND "libopenmpi-dev openmpi-bin" openmpi-devel openmpi)
find_package(OpenMP COMPONENTS C)
refract_need(OpenMP OpenMP_C_FOUND "libgomp1 (clang: libomp-dev)" "libgomp (clang: libomp-devel)" llvm-openmp)
# Not oneDNN's own package file: Debian's asks for OpenCL's headers, which nothing here uses.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h)
find_library(DNNL_LIBRARY dnnl)
if(DNNL_INCLUDE_DIR AND DNNL_LIBRARY)
  set(DNNL_FOUND TRUE)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
endif()
refract_need(oneDNN DNNL_FOUND libdnnl-dev onednn-devel onednn)

set(HDF5_PREFER_PARALLEL ON)
find_package(HDF5 COMPONENTS C)
refract_need("HDF5 with MPI" HDF5_FOUND libhdf5-openmpi-dev hdf5-openmpi-devel "'hdf5=*=mpi_openmpi*'")
if(HDF5_FOUND AND NOT HDF5_IS_PARALLEL)
  refract_need("HDF5 built for MPI (the one found is serial)" HDF5_IS_PARALLEL
    libhdf5-openmpi-dev hdf5-openmpi-devel "'hdf5=*=mpi_openmpi*'")
endif()

pkg_check_modules(XXHASH IMPORTED_TARGET libxxhash)
refract_need(xxHash XXHASH_FOUND libxxhash-dev xxhash-devel xxhash)
pkg_check_modules(YAML IMPORTED_TARGET yaml-0.1)
refract_need(libyaml YAML_FOUND libyaml-dev libyaml-devel yaml)
pkg_check_modules(JANSSON IMPORTED_TARGET jansson)
refract_need(jansson JANSSON_FOUND libjansson-dev jansson-devel jansson)
pkg_check_modules(JPEG IMPORTED_TARGET libjpeg)
refract_need(libjpeg-turbo JPEG_FOUND libjpeg62-turbo-dev libjpeg-turbo-devel libjpeg-turbo)
pkg_check_modules(PNG IMPORTED_TARGET libpng)
refract_need(libpng PNG_FOUND libpng-dev libpng-devel libpng)
pkg_check_modules(WEBP IMPORTED_TARGET libwebp)
refract_need(libwebp WEBP_FOUND libwebp-dev libwebp-devel libwebp)
pkg_check_modules(ARCHIVE IMPORTED_TARGET libarchive)
refract_need(libarchive ARCHIVE_FOUND libarchive-dev libarchive-devel libarchive)
pkg_check_modules(UTF8PROC IMPORTED_TARGET libutf8proc)
refract_need(utf8proc UTF8PROC_FOUND libutf8proc-dev utf8proc-devel libutf8proc)
find_path(RANDOM123_INCLUDE_DIR Random123/philox.h)
refract_need(Random123 RANDOM123_INCLUDE_DIR librandom123-dev random123-devel random123)
if(REFRACT_TESTS)
  pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)
  refract_need(cmocka CMOCKA_FOUND libcmocka-dev libcmocka-devel cmocka)
endif()

if(REFRACT_MISSING)
  message(FATAL_ERROR "Refract needs libraries that were not found:${REFRACT_MISSING}")
endif()

# The CUDA backend (cuda/) needs a toolkit with cuBLAS, and NCCL. Without them it is left out, and
# still runs under emulation in the tests.
set(REFRACT_HAS_CUDA OFF)
if(NOT REFRACT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "REFRACT_CUDA=${REFRACT_CUDA}: expected AUTO, ON or OFF")
elseif(NOT REFRACT_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  find_package(CUDAToolkit 12 QUIET)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND AND TARGET CUDA::cublas AND NCCL_INCLUDE_DIR
     AND NCCL_LIBRARY)
    set(REFRACT_HAS_CUDA ON)
  elseif(REFRACT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "REFRACT_CUDA=ON: a CUDA toolkit of version 12 or later with cuBLAS, and NCCL, "
      "were not found (nvcc: ${CMAKE_CUDA_COMPILER}, cuBLAS: ${CUDA_cublas_LIBRARY}, NCCL: "
      "${NCCL_LIBRARY}); CMAKE_CUDA_COMPILER and CMAKE_PREFIX_PATH say where they are")
  endif()
endif()
if(REFRACT_CUDA STREQUAL "AUTO" AND CMAKE_CUDA_COMPILER AND NOT REFRACT_HAS_CUDA)
  message(WARNING "there is nvcc, but not all else that the CUDA backend needs (toolkit 12 or later: "
    "${CUDAToolkit_VERSION}, cuBLAS: ${CUDA_cublas_LIBRARY}, NCCL: ${NCCL_LIBRARY}): it is left out")
endif()
message(STATUS "CUDA backend: ${REFRACT_HAS_CUDA}")
