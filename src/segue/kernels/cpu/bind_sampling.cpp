// Sampling on raw addresses of float32 logits, run by the whole team. segue/sampling checks what it gives.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
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

using ChosenGiven = std::tuple<int64_t, float, float, float>;  // (id, logprob, peak, log_total)

std::vector<ChosenGiven> choose_ids(
    uintptr_t logits, int64_t stride, int64_t vocab_size, const std::vector<double>& uniforms) {
    std::vector<ChosenGiven> found;
    nb::gil_scoped_release released;
    for (const Chosen& each : choose(rows_at(logits, stride, vocab_size), uniforms))
        found.emplace_back(each.id, each.logprob, each.peak, each.log_total);
    return found;
}

std::vector<Alternatives> likeliest_ids(uintptr_t logits, int64_t stride, int64_t vocab_size,
                                        const std::vector<int64_t>& counts, const std::vector<ChosenGiven>& chosen) {
    std::vector<Alternatives> found;
    float* row = reinterpret_cast<float*>(logits);
    for (size_t i = 0; i < counts.size(); ++i, row += stride) {
        const auto [id, logprob, peak, log_total] = chosen[i];
        found.push_back(counts[i] > 0 ? likeliest(row, vocab_size, counts[i], {id, logprob, peak, log_total})
                                      : Alternatives{});
    }
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
    module.def("likeliest", &likeliest_ids, alone, "logits"_a, "stride"_a, "vocab_size"_a, "counts"_a, "chosen"_a);
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
