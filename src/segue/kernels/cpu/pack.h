// Weights into the layout that the kernels read, in one block of memory that can be written to a file and mapped again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "linear.h"

namespace segue {

// A matrix [rows, columns] of floats of `kind` f32, f16 or bf16; `stride` elements between rows.
struct FloatMatrix {
    const void* data;
    WeightKind kind;
    int64_t stride;
    int64_t rows;
};

// Matrices of one width, of which the rows follow each other: the parts of a merged weight where a checkpoint has them.
using FloatParts = std::vector<FloatMatrix>;

// A packed weight and the bytes that it lies in.
struct Packed {
    Linear linear;
    const std::byte* bytes;
    size_t num_bytes;
};

// weight [n, k] → a packed one of kind f32, f16 or bf16, rounded to nearest even. `bias`: [n] or null. Where `gated`,
// the first n/2 rows are gates and the others their ups. Uses all threads of the team. Throws std::bad_alloc.
Packed pack_float(WeightKind kind, const FloatParts& weight, int64_t n, int64_t k, const float* bias, bool gated);

// How weights are integers.
struct IntFormat {
    WeightKind kind;     // i8, i8w, i4 or i4w
    int64_t group;       // inputs a scale, a multiple of 8; 0: all
    const float* table;  // null, or the 16 values that codes of i4w stand for
};

// weight [n, k] rounded to integers here, with the least squared error of a few scales for each group. `has_zeros`:
// with a zero point for each group of i4 and i4w.
Packed quantize_linear(const IntFormat& format, const FloatParts& weight, int64_t n, int64_t k, bool has_zeros,
                       const float* bias, bool gated);

// Integers that exist already. codes: [n, k] bytes, 0 … 15 or int8; scales: [n, groups]; zeros: like scales, or null
// for 8 (i4) and 0 (i8). permutation: [k], input i of codes is input permutation[i] of x; or null.
struct Codes {
    const uint8_t* codes;
    const float* scales;
    const uint8_t* zeros;
    const int32_t* permutation;
};

Packed pack_codes(const IntFormat& format, const Codes& codes, int64_t n, int64_t k, const float* bias, bool gated);

// Reads the bytes of a `Packed`, at an address that 64 divides, in place; `memory` keeps them alive.
// Throws std::invalid_argument if they are none.
Packed packed_of(const std::byte* bytes, size_t num_bytes, std::shared_ptr<const void> memory);

}  // namespace segue
