// `PackedLinear` and `linear` in Python. Addresses are integers: a caller that runs hundreds of products a step hands
// over tensors' data_ptr(), and the wrapper linear.py checks shapes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bind.h"
#include "kernels.h"
#include "measure.h"
#include "pack.h"
#include "team.h"

namespace nb = nanobind;

namespace segue {
namespace {

const std::map<std::string, WeightKind> kinds = {
    {"f32", WeightKind::f32}, {"f16", WeightKind::f16}, {"bf16", WeightKind::bf16}, {"i8", WeightKind::i8},
    {"i8w", WeightKind::i8w}, {"i4", WeightKind::i4},   {"i4w", WeightKind::i4w},
};

const std::map<std::string, Activation> activations = {
    {"none", Activation::none},
    {"relu", Activation::relu},
    {"relu2", Activation::relu2},
    {"relu6", Activation::relu6},
    {"gelu", Activation::gelu},
    {"gelu_tanh", Activation::gelu_tanh},
    {"gelu_10", Activation::gelu_10},
    {"silu", Activation::silu},
    {"quick_gelu", Activation::quick_gelu},
    {"tanh", Activation::tanh},
    {"sigmoid", Activation::sigmoid},
    {"mish", Activation::mish},
};

template <class T>
T named(const std::map<std::string, T>& names, const std::string& name, const char* what) {
    auto found = names.find(name);
    if (found == names.end()) throw std::invalid_argument("unknown " + std::string(what) + " " + name);
    return found->second;
}

std::string name_of(WeightKind kind) {
    for (const auto& entry : kinds)
        if (entry.second == kind) return entry.first;
    return "";
}

const std::set<WeightKind> float_kinds = {WeightKind::f32, WeightKind::f16, WeightKind::bf16};

void check_shape(int64_t n, int64_t k, bool gated) {
    if (n <= 0 || k <= 0 || (gated && n % 2 != 0)) throw std::invalid_argument("n, k: not the shape of a weight");
}

WeightKind float_kind(const std::string& name) {
    WeightKind kind = named(kinds, name, "kind of float");
    if (!float_kinds.count(kind)) throw std::invalid_argument(name + " is no kind of float");
    return kind;
}

// (address, kind, elements between rows, rows) of each part.
using PartsGiven = std::vector<std::tuple<uintptr_t, std::string, int64_t, int64_t>>;

FloatParts parts_of(const PartsGiven& given, int64_t n) {
    FloatParts parts;
    int64_t rows = 0;
    for (const auto& [address, kind, stride, count] : given) {
        parts.push_back({at<const void>(address), float_kind(kind), stride, count});
        rows += count;
    }
    if (rows != n) throw std::invalid_argument("the parts' rows are not the weight's");
    return parts;
}

Packed bind_pack_float(const std::string& kind, const PartsGiven& weight, int64_t n, int64_t k, uintptr_t bias,
                       bool gated) {
    check_shape(n, k, gated);
    FloatParts parts = parts_of(weight, n);
    WeightKind to = float_kind(kind);
    nb::gil_scoped_release released;
    return pack_float(to, parts, n, k, at<const float>(bias), gated);
}

IntFormat int_format(const std::string& kind, int64_t group, int64_t k, uintptr_t table) {
    IntFormat format{named(kinds, kind, "kind of integers"), group, at<const float>(table)};
    if (float_kinds.count(format.kind)) throw std::invalid_argument(kind + " is no kind of integers");
    if (group < 0 || (group % 8 != 0 && group < k)) throw std::invalid_argument("groups are of a multiple of 8 inputs");
    if (table && format.kind != WeightKind::i4w) throw std::invalid_argument("only i4w takes a table");
    return format;
}

bool is_4_bits(WeightKind kind) { return kind == WeightKind::i4 || kind == WeightKind::i4w; }

Packed bind_quantize(const std::string& kind, const PartsGiven& weight, int64_t n, int64_t k, int64_t group,
                     bool has_zeros, uintptr_t table, uintptr_t bias, bool gated) {
    check_shape(n, k, gated);
    IntFormat format = int_format(kind, group, k, table);
    if (has_zeros && (table || !is_4_bits(format.kind))) throw std::invalid_argument("zero points are of 4-bit codes");
    FloatParts parts = parts_of(weight, n);
    nb::gil_scoped_release released;
    return quantize_linear(format, parts, n, k, has_zeros, at<const float>(bias), gated);
}

Packed bind_pack_codes(const std::string& kind, uintptr_t codes, uintptr_t scales, uintptr_t zeros, int64_t n, int64_t k,
                       int64_t group, uintptr_t table, uintptr_t permutation, uintptr_t bias, bool gated) {
    check_shape(n, k, gated);
    IntFormat format = int_format(kind, group, k, table);
    if (zeros && (table || !is_4_bits(format.kind))) throw std::invalid_argument("zero points are of 4-bit codes");
    Codes given{at<const uint8_t>(codes), at<const float>(scales), at<const uint8_t>(zeros),
                at<const int32_t>(permutation)};
    nb::gil_scoped_release released;
    return pack_codes(format, given, n, k, at<const float>(bias), gated);
}

// memoryview(packed): its bytes, read-only, which keep it alive.
int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    const Packed* packed = nb::inst_ptr<Packed>(self);
    return PyBuffer_FillInfo(view, self, const_cast<std::byte*>(packed->bytes),
                             static_cast<Py_ssize_t>(packed->num_bytes), 1, flags);
}

PyType_Slot buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};

// A weight in the memory of `object`, such as a mapped file, which it keeps.
Packed bind_from_buffer(nb::handle object) {
    auto* view = new Py_buffer;
    if (PyObject_GetBuffer(object.ptr(), view, PyBUF_SIMPLE) != 0) {
        delete view;
        throw nb::python_error();
    }
    std::shared_ptr<const void> memory(view->buf, [view](const void*) {
        nb::gil_scoped_acquire held;
        PyBuffer_Release(view);
        delete view;
    });
    return packed_of(static_cast<const std::byte*>(view->buf), static_cast<size_t>(view->len), memory);
}

// Grows and stays: products of one thread follow each other.
std::byte* scratch_of(size_t num_bytes) {
    static thread_local struct Scratch {
        void* memory = nullptr;
        size_t size = 0;
        ~Scratch() { std::free(memory); }
    } scratch;
    if (scratch.size < num_bytes) {
        std::free(scratch.memory);
        scratch.size = (num_bytes + 4095) / 4096 * 4096;
        scratch.memory = std::aligned_alloc(4096, scratch.size);
        if (scratch.memory == nullptr) {
            scratch.size = 0;
            throw std::bad_alloc();
        }
    }
    return static_cast<std::byte*>(scratch.memory);
}

void bind_run(const Packed& packed, uintptr_t x, int64_t x_stride, int64_t rows, uintptr_t out, int64_t out_stride,
              const std::string& activation, uintptr_t residual, int64_t residual_stride, float scale) {
    LinearCall call{};
    call.x = at<const float>(x);
    call.x_stride = x_stride;
    call.rows = rows;
    call.out = at<float>(out);
    call.out_stride = out_stride;
    call.residual = at<const float>(residual);
    call.residual_stride = residual_stride;
    call.scale = scale;
    call.activation = activation_named(activation);
    nb::gil_scoped_release released;
    call.scratch = scratch_of(linear_scratch_bytes(packed.linear, rows));
    const LinearKernels& linear = kernels().linear;
    Team::get().run([&](const Slice& slice) { linear.run(packed.linear, call, slice); });
}

}  // namespace

Activation activation_named(const std::string& name) { return named(activations, name, "activation"); }

void bind_linear(nb::module_& module) {
    nb::class_<Packed>(module, "PackedLinear", nb::type_slots(buffer_slots))
        .def_static("from_buffer", &bind_from_buffer, nb::arg("buffer"))
        .def_static("pack_float", &bind_pack_float, nb::arg("kind"), nb::arg("parts"), nb::arg("n"), nb::arg("k"),
                    nb::arg("bias") = 0, nb::arg("gated") = false)
        .def_static("quantize", &bind_quantize, nb::arg("kind"), nb::arg("parts"), nb::arg("n"), nb::arg("k"),
                    nb::arg("group") = 0, nb::arg("has_zeros") = false, nb::arg("table") = 0, nb::arg("bias") = 0,
                    nb::arg("gated") = false)
        .def_static("pack_codes", &bind_pack_codes, nb::arg("kind"), nb::arg("codes"), nb::arg("scales"),
                    nb::arg("zeros"), nb::arg("n"), nb::arg("k"), nb::arg("group") = 0, nb::arg("table") = 0,
                    nb::arg("permutation") = 0, nb::arg("bias") = 0, nb::arg("gated") = false)
        .def_prop_ro("kind", [](const Packed& packed) { return name_of(packed.linear.kind); })
        .def_prop_ro("n", [](const Packed& packed) { return packed.linear.n; })
        .def_prop_ro("k", [](const Packed& packed) { return packed.linear.k; })
        .def_prop_ro("group", [](const Packed& packed) { return packed.linear.group; })
        .def_prop_ro("gated", [](const Packed& packed) { return packed.linear.gated; })
        .def_prop_ro("num_outputs", [](const Packed& packed) { return packed.linear.outputs(); })
        .def_prop_ro("num_bytes", [](const Packed& packed) { return packed.num_bytes; });
    module.def("linear", &bind_run, nb::arg("packed"), nb::arg("x"), nb::arg("x_stride"), nb::arg("rows"),
               nb::arg("out"), nb::arg("out_stride"), nb::arg("activation") = "none", nb::arg("residual") = 0,
               nb::arg("residual_stride") = 0, nb::arg("scale") = 1.0f);
    module.def("measure_read_bandwidth", &measure_read_bandwidth, nb::arg("num_bytes"), nb::arg("repeats") = 5,
               nb::call_guard<nb::gil_scoped_release>());
    module.def("measure_read_seconds", &measure_read_seconds, nb::arg("layers"),
               nb::call_guard<nb::gil_scoped_release>());
    module.def("measure_multiplications", &measure_multiplications, nb::arg("integers"), nb::arg("repeats") = 1000,
               nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace segue
