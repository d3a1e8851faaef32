# SPDX-License-Identifier: MIT
#
# Debian packages, one a component, by `cpack -G DEB` (script/deb): libzc0, what programs need at run time; libzc-dev,
# what building them needs; zc, the command.

set(CPACK_PACKAGE_NAME zc)
set(CPACK_PACKAGE_CONTACT "The zc authors <zc@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/folders.cmake)
set(CPACK_COMPONENTS_ALL libzc0 libzc-dev zc)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_ENABLE_COMPONENT_DEPENDS ON)

set(CPACK_COMPONENT_LIBZC0_DESCRIPTION "Messages without copies and without waiting: library")
set(CPACK_DEBIAN_LIBZC0_PACKAGE_NAME libzc0)
set(CPACK_DEBIAN_LIBZC0_PACKAGE_SECTION libs)

set(CPACK_COMPONENT_LIBZC-DEV_DESCRIPTION "Messages without copies and without waiting: development files")
set(CPACK_COMPONENT_LIBZC-DEV_DEPENDS libzc0)
set(CPACK_DEBIAN_LIBZC-DEV_PACKAGE_NAME libzc-dev)
set(CPACK_DEBIAN_LIBZC-DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBZC-DEV_PACKAGE_DEPENDS libmpich-dev)
if(ZC_WITH_VERBS)
    string(APPEND CPACK_DEBIAN_LIBZC-DEV_PACKAGE_DEPENDS ", libibverbs-dev")
endif()

set(CPACK_COMPONENT_ZC_DESCRIPTION "Messages without copies and without waiting: command to tune them")
set(CPACK_COMPONENT_ZC_DEPENDS libzc0) # whose libraries zc race preloads
set(CPACK_DEBIAN_ZC_PACKAGE_NAME zc)
set(CPACK_DEBIAN_ZC_PACKAGE_SECTION utils)

foreach(component ${CPACK_COMPONENTS_ALL})
    install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/${component}
            COMPONENT ${component} RENAME copyright)
endforeach()

include(CPack)
