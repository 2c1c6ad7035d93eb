// What each bind_*.cpp adds to the Python module `segue.kernels.cpu._native`.
#pragma once

#include <nanobind/nanobind.h>

namespace segue {

void bind_attention(nanobind::module_& module);
void bind_linear(nanobind::module_& module);
void bind_program(nanobind::module_& module);
void bind_rows(nanobind::module_& module);
void bind_sampling(nanobind::module_& module);

}  // namespace segue
