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
    i8,    // activations become int8 too, with one scale a row and group
    i8w,   // int8 weights, float activations
    i4,    // alike
    i4w,   // 4-bit weights (codes, or indices of a table: nf4, fp4), float activations
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
//
// data: floats [panels][k][panel_width]; i8 [panels][ceil(k / 4)][panel_width][4 inputs], codes + 128 as bytes;
// i4 [panels][ceil(k / 8)][panel_width][4 bytes], of which byte j holds the codes of inputs j (low) and j + 4.
// An integer weight is (code - zero) * scale, or table[code] * scale. Codes of i8 are -128 … 127, those of i4 0 … 15.
struct Linear {
    WeightKind kind;
    int64_t n, k;
    int64_t group;  // integers: inputs a scale, a multiple of 8; no less than k: one scale an output
    // The n outputs are n/2 gates and n/2 ups: the first half of a panel holds gates, the other their ups, and the
    // result is act(gate) * up, [rows, n/2].
    bool gated;
    const std::byte* data;          // owned by `memory`, which may be a mapped file
    const float* scales;            // [panels][groups][panel_width], or null
    const uint16_t* half_scales;    // the same as 16-bit floats where those hold them exactly
    const uint8_t* zeros;           // like scales; null: 0 for i8, 8 for i4
    const float* table;             // null, or 16 values
    const float* bias;              // null: none; [panels][panel_width]
    const int32_t* permutation;     // null, or: input i of the weight is input permutation[i] of x
    std::shared_ptr<const void> memory;

    int64_t outputs() const { return gated ? n / 2 : n; }
    int64_t panel_outputs() const { return gated ? panel_width / 2 : panel_width; }
    int64_t groups() const { return group > 0 ? (k + group - 1) / group : 0; }
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

// Some inputs of a panel's outputs to integers; all of a group where they have 4 bits.
struct QuantizeCall {
    const void* columns;  // [count][panel_width] of `kind`
    WeightKind kind;
    int64_t count;
    int bits;            // 8 or 4
    const float* table;  // null, or 16 values; then codes are indices of the nearest
    float* buffer;       // [count][panel_width]
    uint32_t* words;     // [ceil(count * bits / 32)][panel_width], as in `Linear`
    float* scales;       // [panel_width]; given for 8 bits, found for 4, 16-bit floats where these reach
    uint8_t* zeros;      // [panel_width], or null: symmetric
};

struct LinearKernels {
    // To be called by every slice of a region. Uses barriers of its own where it must; there is none at its end.
    // A row's result does not depend on the other rows, nor on their number, nor on the number of slices.
    void (*run)(const Linear&, const LinearCall&, const Slice&);
    void (*quantize)(const QuantizeCall&);
    float (*largest)(const void* row, WeightKind kind, int64_t count);
    // For measuring bounds: linear_measure.inl.
    uint32_t (*read_all)(const std::byte* from, size_t size, bool asks_ahead);
    int64_t (*multiply_cached)(bool integers, int64_t rounds);
};

size_t linear_scratch_bytes(const Linear& weight, int64_t rows);

}  // namespace segue
