# refract_embed(TARGET FILE...): each FILE of the source folder becomes `const char
# rf_embedded_<name>_<ending>[]` of TARGET, ending in NUL.
function(refract_embed target)
  foreach(file IN LISTS ARGN)
    get_filename_component(name ${file} NAME)
    string(MAKE_C_IDENTIFIER rf_embedded_${name} symbol)
    set(generated ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.c)
    file(READ ${CMAKE_CURRENT_SOURCE_DIR}/${file} bytes HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
    file(CONFIGURE OUTPUT ${generated} @ONLY CONTENT
      "extern const char @symbol@[];\nconst char @symbol@[] = {@bytes@0};\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    target_sources(${target} PRIVATE ${generated})
  endforeach()
endfunction()
