// The row operators on raw addresses, each run by the whole team. Checked wrappers are in Python.
#include <nanobind/nanobind.h>

#include "bind.h"
#include "kernels.h"
#include "team.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace segue {
namespace {

void embed(uintptr_t ids, int64_t rows, int64_t dim, uintptr_t table, uint8_t kind, uintptr_t out, int64_t out_stride,
           int64_t num_embeddings, int64_t offset, float scale, bool accumulate) {
    EmbedCall call{at<int64_t>(ids), rows,  dim,        offset,         num_embeddings, at<void>(table),
                   FloatKind(kind),  scale, accumulate, at<float>(out), out_stride};
    Team::get().run([&](const Slice& slice) { kernels().rows.embed(call, slice); });
}

void norm(uintptr_t x, int64_t x_stride, int64_t rows, int64_t dim, uintptr_t out, int64_t out_stride, float eps,
          bool centered, uintptr_t weight, uintptr_t bias, int64_t groups) {
    NormCall call{};
    call.x = at<float>(x), call.x_stride = x_stride, call.rows = rows, call.groups = groups, call.dim = dim;
    call.x_group_stride = call.out_group_stride = dim;
    call.weight = at<float>(weight), call.bias = at<float>(bias), call.eps = eps, call.centered = centered;
    call.out = at<float>(out), call.out_stride = out_stride;
    Team::get().run([&](const Slice& slice) { kernels().rows.norm(call, slice); });
}

void angles(uintptr_t positions, int64_t rows, int64_t pairs, uintptr_t inverse, uintptr_t out, float factor,
            uintptr_t is_long, uintptr_t long_inverse, float long_factor) {
    AnglesCall call{at<int64_t>(positions), at<bool>(is_long), rows,        pairs,         at<float>(inverse),
                    at<float>(long_inverse), factor,           long_factor, at<float>(out)};
    Team::get().run([&](const Slice& slice) { kernels().rows.angles(call, slice); });
}

void rotate(uintptr_t x, int64_t x_stride, int64_t rows, int64_t heads, int64_t head_dim, int64_t pairs,
            uintptr_t angles, bool interleaved) {
    RotateCall call{at<float>(x), x_stride, rows, heads, head_dim, pairs, interleaved, at<float>(angles)};
    Team::get().run([&](const Slice& slice) { kernels().rows.rotate(call, slice); });
}

void binary(uintptr_t a, int64_t a_stride, uintptr_t b, int64_t b_stride, int64_t rows, int64_t dim, uintptr_t out,
            int64_t out_stride, uint8_t op, float scale) {
    BinaryCall call{at<float>(a), at<float>(b), a_stride,   b_stride, out_stride,
                    rows,         dim,          Binary(op), scale,    at<float>(out)};
    Team::get().run([&](const Slice& slice) { kernels().rows.binary(call, slice); });
}

void activate(uintptr_t x, int64_t x_stride, int64_t rows, int64_t dim, uintptr_t out, int64_t out_stride,
              uint8_t activation, float scale, float soft_cap, uintptr_t multiplied, int64_t multiplied_stride) {
    ActivateCall call{at<float>(x), at<float>(multiplied), x_stride, multiplied_stride,      out_stride,    rows,
                      dim,          scale,                 soft_cap, Activation(activation), at<float>(out)};
    Team::get().run([&](const Slice& slice) { kernels().rows.activate(call, slice); });
}

void gather(uintptr_t x, int64_t x_stride, uintptr_t indices, int64_t rows, int64_t dim, uintptr_t out,
            int64_t out_stride) {
    GatherCall call{at<float>(x), at<int64_t>(indices), x_stride, rows, dim, out_stride, at<float>(out)};
    Team::get().run([&](const Slice& slice) { kernels().rows.gather(call, slice); });
}

}  // namespace

void bind_rows(nb::module_& module) {
    nb::call_guard<nb::gil_scoped_release> alone;
    module.def("embed", &embed, alone, "ids"_a, "rows"_a, "dim"_a, "table"_a, "kind"_a, "out"_a, "out_stride"_a,
               "num_embeddings"_a, "offset"_a = 0, "scale"_a = 1.0f, "accumulate"_a = false);
    module.def("norm", &norm, alone, "x"_a, "x_stride"_a, "rows"_a, "dim"_a, "out"_a, "out_stride"_a, "eps"_a,
               "centered"_a, "weight"_a = 0, "bias"_a = 0, "groups"_a = 1);
    module.def("angles", &angles, alone, "positions"_a, "rows"_a, "pairs"_a, "inverse"_a, "out"_a, "factor"_a = 1.0f,
               "is_long"_a = 0, "long_inverse"_a = 0, "long_factor"_a = 1.0f);
    module.def("rotate", &rotate, alone, "x"_a, "x_stride"_a, "rows"_a, "heads"_a, "head_dim"_a, "pairs"_a, "angles"_a,
               "interleaved"_a = false);
    module.def("binary", &binary, alone, "a"_a, "a_stride"_a, "b"_a, "b_stride"_a, "rows"_a, "dim"_a, "out"_a,
               "out_stride"_a, "op"_a, "scale"_a = 1.0f);
    module.def("activate", &activate, alone, "x"_a, "x_stride"_a, "rows"_a, "dim"_a, "out"_a, "out_stride"_a,
               "activation"_a, "scale"_a = 1.0f, "soft_cap"_a = 0.0f, "multiplied"_a = 0, "multiplied_stride"_a = 0);
    module.def("gather", &gather, alone, "x"_a, "x_stride"_a, "indices"_a, "rows"_a, "dim"_a, "out"_a, "out_stride"_a);
}

}  // namespace segue
