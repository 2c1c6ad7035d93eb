// `PackedSequences` and `pack_tokens` in Python.
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "step_lists.h"

using nanobind::literals::operator""_a;

namespace segue {
namespace {

SequencesGiven given(const PackedSequences& packed) {
    auto address = [](const int64_t* numbers) { return reinterpret_cast<uintptr_t>(numbers); };
    Sequences view = packed.view();
    return {view.count, address(view.query_starts), address(view.kv_lens), address(view.block_tables), view.table_width};
}

void pack_tokens(nb::handle token_ids, nb::handle starts, nb::handle block_tables, int64_t block_size, uintptr_t out,
                 int64_t num_tokens) {
    PackedTokens packed(token_ids, starts, block_tables, block_size);
    require(static_cast<int64_t>(packed.ids.size()) == num_tokens, "not as many tokens as said");
    int64_t* to = at<int64_t>(out);
    for (const Numbers* each : {&packed.ids, &packed.positions, &packed.slots})
        to = std::copy(each->begin(), each->end(), to);
}

}  // namespace

void bind_step(nb::module_& module) {
    nb::class_<PackedSequences>(module, "PackedSequences")
        .def(
            "__init__",
            [](PackedSequences* self, nb::handle query_lens, nb::handle kv_lens, nb::handle tables, int64_t block_size) {
                new (self) PackedSequences(starts_of(numbers_of(query_lens)), numbers_of(kv_lens), tables, block_size);
            },
            "query_lens"_a, "kv_lens"_a, "block_tables"_a, "block_size"_a)
        .def_prop_ro("given", &given);
    module.def("pack_tokens", &pack_tokens, "token_ids"_a, "starts"_a, "block_tables"_a, "block_size"_a, "out"_a,
               "num_tokens"_a);
}

}  // namespace segue
