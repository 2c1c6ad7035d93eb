// Products of activations with prepacked weights: x [rows, k] · weight [n, k]ᵀ → [rows, n].
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "slice.h"

namespace segue {

enum class WeightKind : uint8_t {
    f32,
    f16,   // stored as 16-bit floats, multiplied as 32-bit floats
    bf16,  // alike
    i8,    // one scale an output; activations become int8 with one scale a row
    i8w,   // int8 weights, float activations
    i4,    // groups of `group` inputs with a scale, and a zero point where `zeros`; activations become int8
    i4w,   // int4 (or a table of 16 values: nf4, fp4) weights, float activations
};

enum class Activation : uint8_t {
    none,
    relu,
    relu2,
    relu6,
    gelu,
    gelu_tanh,
    gelu_10,
    silu,
    quick_gelu,
    tanh,
    sigmoid,
    mish,
};

// Outputs are packed in panels of this many, the last filled up with zeros. A panel is contiguous and holds all of k.
constexpr int64_t panel_width = 32;

// A weight in the layout that the kernels read front to back. Immutable; shared by whoever runs it.
// Arrays with an entry an output have panels() * panel_width entries, in the order of the panels.
struct Linear {
    WeightKind kind;
    int64_t n, k;
    int64_t group;  // inputs a scale; 0: one scale an output
    // The n outputs are n/2 gates and n/2 ups: the first half of a panel holds gates, the other their ups, and the
    // result is act(gate) * up, [rows, n/2].
    bool gated;
    // Floats: [panels][k][panel_width].
    const std::byte* data;       // owned by `memory`, which may be a mapped file
    const float* scales;
    const float* zeros;          // null: symmetric
    const float* table;          // null, or 16 values that a 4-bit code stands for
    const int32_t* sums;         // i8: of each output's weights
    const float* bias;           // null: none
    std::shared_ptr<const void> memory;

    int64_t outputs() const { return gated ? n / 2 : n; }
    int64_t panel_outputs() const { return gated ? panel_width / 2 : panel_width; }
    int64_t panels() const { return (outputs() + panel_outputs() - 1) / panel_outputs(); }
};

struct LinearCall {
    const float* x;
    int64_t x_stride;  // floats between rows
    int64_t rows;
    float* out;
    int64_t out_stride;
    const float* residual;  // null, or added to the result after activation; may be `out`
    int64_t residual_stride;
    float scale;            // multiplies the product, before bias
    Activation activation;
    std::byte* scratch;     // linear_scratch_bytes(), shared by all slices of the call
};

struct LinearKernels {
    // To be called by every slice of a region. Uses barriers of its own where it must; there is none at its end.
    // A row's result does not depend on the other rows, nor on their number, nor on the number of slices.
    void (*run)(const Linear&, const LinearCall&, const Slice&);
};

size_t linear_scratch_bytes(const Linear& weight, int64_t rows);

}  // namespace segue
