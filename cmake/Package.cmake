# librefract, static and shared, its pkg-config files and its CMake package. `objects` are those of the
# layers.

# What a program needs beside the archive: names or paths of libraries.
set(needed ${DNNL_LIBRARY} ${HDF5_C_LIBRARIES} ${MPI_C_LIBRARIES} ${XXHASH_LINK_LIBRARIES} ${YAML_LINK_LIBRARIES}
  ${JANSSON_LINK_LIBRARIES} ${JPEG_LINK_LIBRARIES} ${PNG_LINK_LIBRARIES} ${WEBP_LINK_LIBRARIES}
  ${ARCHIVE_LINK_LIBRARIES}
  ${UTF8PROC_LINK_LIBRARIES} ${LAPACKE_LINK_LIBRARIES} ${OpenMP_C_LIBRARIES} pthread m)
if(REFRACT_HAS_CUDA)
  list(APPEND needed ${CUDA_cublas_LIBRARY} ${CUDA_cublasLt_LIBRARY} ${CUDA_cudart_LIBRARY} ${NCCL_LIBRARY} stdc++)
endif()
list(REMOVE_DUPLICATES needed)

add_library(refract_archive STATIC ${objects})
set_target_properties(refract_archive PROPERTIES OUTPUT_NAME refract LINKER_LANGUAGE C)

file(GLOB public_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/include/refract/*.h)
set(exports "")
foreach(header IN LISTS public_headers)
  file(STRINGS ${header} lines REGEX "rf_[a-z0-9_]+[(;\\[,]")
  foreach(line IN LISTS lines)
    string(REGEX MATCHALL "rf_[a-z0-9_]+" words "${line}")
    list(APPEND exports ${words})
  endforeach()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${header})
endforeach()
list(REMOVE_DUPLICATES exports)
list(JOIN exports ";\n    " exports)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/refract.map
  CONTENT "REFRACT_0 {\n  global:\n    ${exports};\n  local: *;\n};\n" @ONLY)

add_library(refract_shared SHARED ${objects})
target_link_libraries(refract_shared PRIVATE ${libraries})
target_link_options(refract_shared PRIVATE LINKER:--version-script=${CMAKE_BINARY_DIR}/refract.map)
set_target_properties(refract_shared PROPERTIES OUTPUT_NAME refract VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS ${CMAKE_BINARY_DIR}/refract.map
  LINKER_LANGUAGE C)

# -l and -L for the pkg-config file; paths as they are.
set(needed_flags "")
foreach(library IN LISTS needed)
  if(library MATCHES "^(/|-)")
    string(APPEND needed_flags " ${library}")
  else()
    string(APPEND needed_flags " -l${library}")
  endif()
endforeach()
file(RELATIVE_PATH refract_up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /) # so that it may be moved
set(refract_kind "")
set(refract_libs "-lrefract -lm") # the headers' users want libm as the library does
configure_file(${CMAKE_SOURCE_DIR}/cmake/refract.pc.in ${CMAKE_BINARY_DIR}/refract.pc @ONLY)
set(refract_kind " (static)")
set(refract_libs "-l:librefract.a${needed_flags} -fopenmp")
configure_file(${CMAKE_SOURCE_DIR}/cmake/refract.pc.in ${CMAKE_BINARY_DIR}/refract-static.pc @ONLY)
include(CMakePackageConfigHelpers)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/refractConfig.cmake.in
  ${CMAKE_BINARY_DIR}/refractConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/refract
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/refractConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)

install(TARGETS refract_archive refract_shared
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${public_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/refract)
install(FILES ${CMAKE_BINARY_DIR}/refract.pc ${CMAKE_BINARY_DIR}/refract-static.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/refractConfig.cmake ${CMAKE_BINARY_DIR}/refractConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/refract)
