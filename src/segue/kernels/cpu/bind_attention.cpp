// Attention on raw addresses, run by the whole team. attention.py checks what it is given.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <vector>

#include "bind.h"
#include "kernels.h"
#include "team.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace segue {
namespace {

void write(uintptr_t keys, int64_t key_stride, uintptr_t values, int64_t value_stride, int64_t rows, uintptr_t slots,
           const Cache& cache) {
    WriteCall call{at<float>(keys), at<float>(values), key_stride, value_stride, rows, at<int64_t>(slots), cache};
    Team::get().run([&](const Slice& slice) { kernels().attention.write(call, slice); });
}

void run(AttentionCall& call, bool is_packed) {
    thread_local std::vector<std::byte> scratch;
    size_t bytes = attention_scratch_bytes(call.spec, call.sequences, Team::get().size());
    if (scratch.size() < bytes) scratch.resize(bytes);
    call.scratch = scratch.data();
    const AttentionKernels& table = kernels().attention;
    Team::get().run([&](const Slice& slice) { (is_packed ? table.packed : table.paged)(call, slice); });
}

void paged(uintptr_t q, int64_t q_stride, const Cache& cache, const SequencesGiven& sequences, const AttentionSpec& spec,
           uintptr_t out, int64_t out_stride) {
    AttentionCall call{};
    call.q = at<float>(q), call.q_stride = q_stride, call.cache = cache;
    call.sequences = sequences_of(sequences), call.spec = spec, call.out = at<float>(out), call.out_stride = out_stride;
    run(call, false);
}

void packed(uintptr_t q, int64_t q_stride, uintptr_t k, int64_t k_stride, uintptr_t v, int64_t v_stride,
            const SequencesGiven& sequences, const AttentionSpec& spec, uintptr_t out, int64_t out_stride) {
    AttentionCall call{};
    call.q = at<float>(q), call.q_stride = q_stride, call.k = at<float>(k), call.k_stride = k_stride;
    call.v = at<float>(v), call.v_stride = v_stride;
    call.sequences = sequences_of(sequences), call.spec = spec, call.out = at<float>(out), call.out_stride = out_stride;
    run(call, true);
}

}  // namespace

void bind_attention(nb::module_& module) {
    nb::call_guard<nb::gil_scoped_release> alone;
    module.def("write_kv", &write, alone, "keys"_a, "key_stride"_a, "values"_a, "value_stride"_a, "rows"_a, "slots"_a,
               "cache"_a);
    module.def("paged_attention", &paged, alone, "q"_a, "q_stride"_a, "cache"_a, "sequences"_a, "spec"_a, "out"_a,
               "out_stride"_a);
    module.def("packed_attention", &packed, alone, "q"_a, "q_stride"_a, "k"_a, "k_stride"_a, "v"_a, "v_stride"_a,
               "sequences"_a, "spec"_a, "out"_a, "out_stride"_a);
}

}  // namespace segue
