// Activations as int8: x ≈ code * scale, scale = max|x| / 127 over a row's group of inputs.
#pragma once

#include "linear_tile.inl"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

typedef int8_t i8x16 __attribute__((vector_size(16)));

// Words of 32 bits that hold k codes, `steps` groups of 4 inputs in each.
SEGUE_INLINE int64_t words_of(int64_t k, int steps) { return (k + 4 * steps - 1) / (4 * steps); }

// R rows: words of 4 inputs [ceil(k / 8) * 2][R]; scales and sums of codes [groups][R].
struct QuantizedTile {
    const int32_t* inputs;
    const float* scales;
    const int32_t* sums;
};

struct Quantized {
    int32_t* inputs;
    float* scales;
    int32_t* sums;
    int64_t words, groups;
    int height;

    QuantizedTile tile(int64_t index) const {
        return {inputs + index * words * height, scales + index * groups * height, sums + index * groups * height};
    }
};

static inline Quantized quantized_in(std::byte* scratch, const Linear& weight, Tiles tiles) {
    Quantized x{};
    x.height = tiles.height;
    x.words = words_of(weight.k, 2) * 2;
    x.groups = weight.groups();
    int64_t rows = tiles.count * tiles.height;
    x.inputs = reinterpret_cast<int32_t*>(scratch);
    x.scales = reinterpret_cast<float*>(scratch) + rows * x.words;
    x.sums = reinterpret_cast<int32_t*>(x.scales + rows * x.groups);
    return x;
}

// 16 inputs of a row from `at` on; those from `end` on are zeros.
SEGUE_INLINE f32x16 inputs_at(const float* x, const int32_t* permutation, int64_t at, int64_t end) {
    if (!permutation && at + lanes <= end) return load<f32x16>(x + at);
    float part[lanes] = {};
    for (int64_t i = 0; i < lanes && at + i < end; ++i) part[i] = x[permutation ? permutation[at + i] : at + i];
    return load<f32x16>(part);
}

// Inputs [begin, end) of a row: codes into words `stride` apart, of which words end at `words`. Returns their sum.
static inline int32_t quantize_group(const float* x, const int32_t* permutation, int64_t begin, int64_t end,
                                     int32_t* to, int64_t words, int64_t stride, float* scale) {
    f32x16 largest{};
    for (int64_t i = begin; i < end; i += lanes) largest = max(abs(inputs_at(x, permutation, i, end)), largest);
    const float most = max_of(largest);
    *scale = most / 127.0f;
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
    i32x16 sum{};
    for (int64_t i = begin; i < end; i += lanes) {
        f32x16 shifted = inputs_at(x, permutation, i, end) * inverse + rounder;
        i32x16 codes = bits_of<i32x16>(shifted) - bits_of<i32x16>(broadcast(rounder));
        sum += codes;
        int32_t packed[lanes / 4];
        store(packed, __builtin_convertvector(codes, i8x16));
        for (int64_t word = i / 4; word < i / 4 + lanes / 4 && word < words; ++word)
            to[word * stride] = packed[word - i / 4];
    }
    int32_t total = 0, part[lanes];
    store(part, sum);
    for (int i = 0; i < lanes; ++i) total += part[i];
    return total;
}

// All rows of the call into `to`; each slice does a part of them.
static __attribute__((noinline)) void quantize(
    const Linear& weight, const LinearCall& call, Tiles tiles, const Slice& slice, const Quantized& to) {
    Range part = slice.part(tiles.count * tiles.height);
    for (int64_t row = part.begin; row < part.end; ++row) {
        int64_t tile = row / tiles.height, r = row % tiles.height;
        int32_t* inputs = to.inputs + tile * to.words * tiles.height + r;
        for (int64_t group = 0; group < to.groups; ++group) {
            int64_t at = (tile * to.groups + group) * tiles.height + r;
            int64_t begin = group * weight.group, end = begin + weight.group < weight.k ? begin + weight.group : weight.k;
            int64_t words = group + 1 < to.groups ? end / 4 : to.words;
            if (row < call.rows) {
                const float* x = call.x + row * call.x_stride;
                to.sums[at] = quantize_group(x, weight.permutation, begin, end, inputs, words, tiles.height, to.scales + at);
            } else {
                for (int64_t word = begin / 4; word < words; ++word) inputs[word * tiles.height] = 0;
                to.scales[at] = 0.0f;
                to.sums[at] = 0;
            }
        }
    }
}

}  // namespace segue::SEGUE_ISA
