// `_native.Program`: recorded by segue/kernels/cpu/program.py, which checks what it is given; this trusts its numbers.
// Addresses are integers: the tensors behind them are kept alive by the recorder.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>

#include "bind.h"
#include "pack.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace segue {
namespace {

using PlaceGiven = std::optional<std::tuple<int32_t, int64_t>>;

Place place(const PlaceGiven& given) {
    if (!given) return {nowhere, 0};
    return {std::get<0>(*given), std::get<1>(*given)};
}

void add_linear(Program& program, const Packed& weight, PlaceGiven x, PlaceGiven out, PlaceGiven residual,
                const std::string& activation) {
    program.add(LinearStep{weight.linear, place(x), place(out), place(residual), activation_named(activation)});
}

void add_embed(Program& program, uint8_t ids, uintptr_t table, uint8_t kind, int64_t num_embeddings, int64_t dim,
               int64_t offset, PlaceGiven out) {
    EmbedCall call{};
    call.dim = dim;
    call.offset = offset;
    call.num_embeddings = num_embeddings;
    call.table = at<const void>(table);
    call.kind = FloatKind(kind);
    call.scale = 1.0f;
    program.add(EmbedStep{Ids(ids), call, place(out)});
}

void add_norm(Program& program, PlaceGiven x, PlaceGiven out, int64_t groups, int64_t dim, uintptr_t weight,
              uintptr_t bias, float eps, bool centered) {
    NormCall call{};
    call.groups = groups;
    call.dim = call.x_group_stride = call.out_group_stride = dim;
    call.weight = at<const float>(weight);
    call.bias = at<const float>(bias);
    call.eps = eps;
    call.centered = centered;
    program.add(NormStep{call, place(x), place(out)});
}

void add_angles(Program& program, std::vector<float> inverse, std::vector<float> long_inverse, float factor,
                float long_factor, PlaceGiven out) {
    AnglesCall call{};
    call.pairs = static_cast<int64_t>(inverse.size());
    call.factor = factor;
    call.long_factor = long_factor;
    program.add(AnglesStep{call, std::move(inverse), std::move(long_inverse), place(out)});
}

void add_rotate(Program& program, PlaceGiven x, PlaceGiven angles, int64_t heads, int64_t head_dim, int64_t pairs,
                bool interleaved) {
    RotateCall call{};
    call.heads = heads;
    call.head_dim = head_dim;
    call.pairs = pairs;
    call.interleaved = interleaved;
    program.add(RotateStep{call, place(x), place(angles)});
}

void add_binary(Program& program, uint8_t op, int64_t dim, PlaceGiven a, PlaceGiven b, uintptr_t constant,
                PlaceGiven out) {
    program.add(BinaryStep{Binary(op), dim, place(a), place(b), place(out), at<const float>(constant)});
}

void add_activate(Program& program, const std::string& activation, int64_t dim, float scale, float soft_cap, PlaceGiven x,
                  PlaceGiven multiplied, PlaceGiven out) {
    program.add(ActivateStep{activation_named(activation), dim, scale, soft_cap, place(x), place(multiplied), place(out)});
}

Cache make_cache(uintptr_t keys, uintptr_t values, uint8_t kind, int64_t block_size, int64_t kv_heads,
                 int64_t key_dim, int64_t value_dim, uintptr_t key_scales, uintptr_t value_scales, bool by_heads,
                 bool keys_by_dims) {
    return {at<void>(keys),
            at<void>(values),
            at<float>(key_scales),
            at<float>(value_scales),
            CacheKind(kind),
            block_size,
            kv_heads,
            key_dim,
            value_dim,
            by_heads,
            keys_by_dims};
}

AttentionSpec make_spec(int64_t num_heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, float scale,
                        bool causal, int64_t window, float soft_cap, uintptr_t alibi_slopes, bool alibi_is_rounded,
                        uintptr_t distance_bias, int64_t max_distance, uintptr_t sinks) {
    return {num_heads,
            kv_heads,
            key_dim,
            value_dim,
            scale,
            causal,
            window,
            soft_cap,
            at<const float>(alibi_slopes),
            alibi_is_rounded,
            at<const float>(distance_bias),
            max_distance,
            at<const float>(sinks)};
}

void run(Program& program, int64_t rows, uintptr_t tokens, uintptr_t positions, uintptr_t is_long, uintptr_t slots,
         const SequencesGiven& self, const SequencesGiven& cross, uintptr_t input, int64_t input_stride,
         uintptr_t output, int64_t output_stride, uintptr_t wanted) {
    Inputs inputs;
    inputs.rows = rows;
    inputs.tokens = at<const int64_t>(tokens);
    inputs.positions = at<const int64_t>(positions);
    inputs.is_long = at<const bool>(is_long);
    inputs.slots = at<const int64_t>(slots);
    inputs.self = sequences_of(self);
    inputs.cross = sequences_of(cross);
    inputs.input = at<const float>(input);
    inputs.input_stride = input_stride;
    inputs.output = at<float>(output);
    inputs.output_stride = output_stride;
    inputs.wanted = at<const int64_t>(wanted);
    nb::gil_scoped_release released;
    program.run(inputs);
}

}  // namespace

void bind_program(nb::module_& module) {
    nb::class_<Cache>(module, "Cache")
        .def_static("make", &make_cache, "keys"_a, "values"_a, "kind"_a, "block_size"_a, "kv_heads"_a, "key_dim"_a,
                    "value_dim"_a, "key_scales"_a, "value_scales"_a, "by_heads"_a, "keys_by_dims"_a);
    nb::class_<AttentionSpec>(module, "AttentionSpec")
        .def_static("make", &make_spec, nb::kw_only(), "num_heads"_a, "kv_heads"_a, "key_dim"_a, "value_dim"_a,
                    "scale"_a, "causal"_a, "window"_a, "soft_cap"_a, "alibi_slopes"_a, "alibi_is_rounded"_a,
                    "distance_bias"_a, "max_distance"_a, "sinks"_a);
    module.attr("EXTERNAL_INPUT") = external_input;
    module.attr("EXTERNAL_OUTPUT") = external_output;
    nb::class_<Program>(module, "Program")
        .def(nb::init<std::vector<int64_t>, int64_t, bool>(), "widths"_a, "tile_rows"_a, "whole_sequences"_a)
        .def("__len__", &Program::size)
        .def("linear", &add_linear, nb::kw_only(), "weight"_a, "x"_a, "out"_a, "residual"_a.none(),
             "activation"_a)
        .def("embed", &add_embed, nb::kw_only(), "ids"_a, "table"_a, "kind"_a, "num_embeddings"_a, "dim"_a, "offset"_a,
             "out"_a)
        .def("norm", &add_norm, nb::kw_only(), "x"_a, "out"_a, "groups"_a, "dim"_a, "weight"_a, "bias"_a, "eps"_a,
             "centered"_a)
        .def("angles", &add_angles, nb::kw_only(), "inverse"_a, "long_inverse"_a, "factor"_a, "long_factor"_a, "out"_a)
        .def("rotate", &add_rotate, nb::kw_only(), "x"_a, "angles"_a, "heads"_a, "head_dim"_a, "pairs"_a,
             "interleaved"_a)
        .def("binary", &add_binary, nb::kw_only(), "op"_a, "dim"_a, "a"_a, "b"_a.none(), "constant"_a,
             "out"_a)
        .def("activate", &add_activate, nb::kw_only(), "activation"_a, "dim"_a, "scale"_a, "soft_cap"_a, "x"_a,
             "multiplied"_a.none(), "out"_a)
        .def(
            "write",
            [](Program& program, const Cache& cache, PlaceGiven keys, PlaceGiven values) {
                program.add(WriteStep{cache, place(keys), place(values)});
            },
            nb::kw_only(), "cache"_a, "keys"_a, "values"_a)
        .def(
            "attend",
            [](Program& program, uint8_t what, const AttentionSpec& spec, const Cache* cache, PlaceGiven q,
               PlaceGiven k, PlaceGiven v, PlaceGiven out) {
                program.add(AttentionStep{Attends(what), spec, cache ? *cache : Cache{}, place(q), place(k), place(v), place(out)});
            },
            nb::kw_only(), "what"_a, "spec"_a, "cache"_a.none(), "q"_a, "k"_a.none(), "v"_a.none(), "out"_a)
        .def("run", &run, nb::kw_only(), "rows"_a, "tokens"_a, "positions"_a, "is_long"_a, "slots"_a, "self_attention"_a,
             "cross_attention"_a, "input"_a, "input_stride"_a, "output"_a, "output_stride"_a, "wanted"_a)
        .def("narrow", &Program::narrow, "buffers"_a)
        .def_rw("profiling", &Program::profiling)
        .def("take_times", &Program::take_times);
}

}  // namespace segue
