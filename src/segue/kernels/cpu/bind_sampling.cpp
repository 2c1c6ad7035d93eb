// Sampling on raw addresses of float32 logits, run by the whole team. segue/sampling checks what it gives.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bind.h"
#include "sampling.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace segue {
namespace {

LogitRows rows_at(uintptr_t logits, int64_t stride, int64_t vocab_size) {
    return {reinterpret_cast<float*>(logits), stride, vocab_size};
}

// (id, logprob, peak, log_total) of each row.
std::vector<std::tuple<int64_t, float, float, float>> choose_ids(uintptr_t logits, int64_t stride, int64_t vocab_size,
                                                                const std::vector<double>& uniforms) {
    std::vector<std::tuple<int64_t, float, float, float>> found;
    nb::gil_scoped_release released;
    for (const Chosen& each : choose(rows_at(logits, stride, vocab_size), uniforms))
        found.emplace_back(each.id, each.logprob, each.peak, each.log_total);
    return found;
}

}  // namespace

void bind_sampling(nb::module_& module) {
    nb::call_guard<nb::gil_scoped_release> alone;
    module.def("choose", &choose_ids, "logits"_a, "stride"_a, "vocab_size"_a, "uniforms"_a);
    module.def(
        "peaks",
        [](uintptr_t logits, int64_t stride, int64_t vocab_size, int64_t rows) {
            return peaks_of(rows_at(logits, stride, vocab_size), rows);
        },
        alone, "logits"_a, "stride"_a, "vocab_size"_a, "rows"_a);
    module.def(
        "keep_top_k",
        [](uintptr_t logits, int64_t stride, int64_t vocab_size, const std::vector<int64_t>& rows,
           const std::vector<int64_t>& limits) { keep_top_k(rows_at(logits, stride, vocab_size), rows, limits); },
        alone, "logits"_a, "stride"_a, "vocab_size"_a, "rows"_a, "limits"_a);
    module.def(
        "keep_top_p",
        [](uintptr_t logits, int64_t stride, int64_t vocab_size, const std::vector<int64_t>& rows,
           const std::vector<double>& shares) { keep_top_p(rows_at(logits, stride, vocab_size), rows, shares); },
        alone, "logits"_a, "stride"_a, "vocab_size"_a, "rows"_a, "shares"_a);
    module.def(
        "keep_typical",
        [](uintptr_t logits, int64_t stride, int64_t vocab_size, const std::vector<int64_t>& rows,
           const std::vector<double>& shares) { keep_typical(rows_at(logits, stride, vocab_size), rows, shares); },
        alone, "logits"_a, "stride"_a, "vocab_size"_a, "rows"_a, "shares"_a);
}

}  // namespace segue
