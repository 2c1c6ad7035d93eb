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

template <class Number>
using Keep = void(const LogitRows&, const std::vector<int64_t>&, const std::vector<Number>&);

// name(logits, stride, vocab_size, rows, numbers)
template <class Number>
void def_keep(nb::module_& module, const char* name, Keep<Number>* keep, const char* numbers) {
    module.def(
        name,
        [keep](uintptr_t logits, int64_t stride, int64_t vocab_size, const std::vector<int64_t>& rows,
               const std::vector<Number>& given) { keep(rows_at(logits, stride, vocab_size), rows, given); },
        nb::call_guard<nb::gil_scoped_release>(), "logits"_a, "stride"_a, "vocab_size"_a, "rows"_a, nb::arg(numbers));
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
    def_keep<int64_t>(module, "keep_top_k", &keep_top_k, "limits");
    def_keep<double>(module, "keep_top_p", &keep_top_p, "shares");
    def_keep<double>(module, "keep_typical", &keep_typical, "shares");
}

}  // namespace segue
