#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "kernels.h"
#include "team.h"

namespace nb = nanobind;

NB_MODULE(_native, module) {
    // Programs and weights live as long as the process: at its end they are no leak to warn of.
    nb::set_leak_warnings(false);
    module.def("available_isas", &segue::available_isas);
    module.def("isa", [] { return segue::kernels().isa; });
    module.def("use_isa", &segue::use_isa, nb::arg("name"));
    module.def("num_threads", [] { return segue::Team::get().size(); });
    module.def(
        "set_num_threads", [](int count, bool pinned) { segue::Team::get().resize(count, pinned); }, nb::arg("count"),
        nb::arg("pinned") = false);
    segue::bind_linear(module);
    segue::bind_rows(module);
    segue::bind_attention(module);
    segue::bind_sampling(module);
    segue::bind_step(module);
    segue::bind_plain_step(module);
    segue::bind_program(module);
}
