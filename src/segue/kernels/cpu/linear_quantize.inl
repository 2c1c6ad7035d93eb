// Activations as int8: x ≈ code * scale, scale = max|x| / 127 over a row's group of inputs.
#pragma once

#include "linear_tile.inl"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

typedef int8_t i8x16 __attribute__((vector_size(16)));

// The number of steps of 4 inputs that k inputs are filled up to: whole words of 4-bit codes.
SEGUE_INLINE int64_t steps_of(int64_t k) { return (k + 7) / 8 * 2; }

// Steps are 4 inputs. Words [blocks][tiles][steps of the block][height]; scales and offsets [groups][height].
struct Quantized {
    int32_t* words;
    float* scales;
    // What a group's products begin with: -middle times the sum of the codes, where weights' codes are `middle` too
    // large; the sum itself, as the bits of a float, where zero points are multiplied with it.
    int32_t* offsets;
    Blocks blocks;  // in steps
    Tiles tiles;
    int64_t groups;

    // Of a tile's words from step `begin`, where a block begins.
    const int32_t* words_of(int64_t begin, int64_t tile) const { return words + blocks.offset(begin, tile, tiles); }
    int64_t group_offset(int64_t group, int64_t tile) const { return (tile * groups + group) * tiles.height; }
};

static inline Quantized quantized_in(
    std::byte* scratch, const Linear& weight, Blocks blocks, Tiles tiles) {
    const int64_t rows = tiles.count * tiles.height, groups = weight.groups();
    int32_t* words = reinterpret_cast<int32_t*>(scratch);
    float* scales = reinterpret_cast<float*>(words + rows * blocks.inputs);
    return {words, scales, reinterpret_cast<int32_t*>(scales + rows * groups), blocks, tiles, groups};
}

// 16 inputs of a row from `at` on; those from `end` on are zeros.
SEGUE_INLINE f32x16 inputs_at(const float* x, const int32_t* permutation, int64_t at, int64_t end) {
    if (!permutation && at + lanes <= end) return load<f32x16>(x + at);
    float part[lanes] = {};
    for (int64_t i = 0; i < lanes && at + i < end; ++i) part[i] = x[permutation ? permutation[at + i] : at + i];
    return load<f32x16>(part);
}

// A row's inputs, in their order for the weight.
struct Inputs {
    const float* x;
    const int32_t* permutation;
    int64_t count;
};

static float largest_of(const Inputs& from, int64_t begin, int64_t end) {
    f32x16 largest{};
    for (int64_t i = begin; i < end; i += lanes)
        largest = max(abs(inputs_at(from.x, from.permutation, i, end)), largest);
    return max_of(largest);
}

// Inputs of steps [begin, end) → words `stride` apart. Returns the sum of their codes.
static int32_t round_steps(
    const Inputs& from, int64_t begin, int64_t end, float inverse, int32_t* to, int64_t stride) {
    constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
    const int64_t last = 4 * end < from.count ? 4 * end : from.count;
    i32x16 sum{};
    for (int64_t step = begin; step < end; step += lanes / 4) {
        f32x16 shifted = inputs_at(from.x, from.permutation, 4 * step, last) * inverse + rounder;
        i32x16 codes = bits_of<i32x16>(shifted) - bits_of<i32x16>(broadcast(rounder));
        sum += codes;
        int32_t words[lanes / 4];
        store(words, __builtin_convertvector(codes, i8x16));
        for (int64_t i = 0; i < lanes / 4 && step + i < end; ++i) to[(step + i - begin) * stride] = words[i];
    }
    int32_t total = 0, part[lanes];
    store(part, sum);
    for (int i = 0; i < lanes; ++i) total += part[i];
    return total;
}

// One row's group of steps [begin, end), which may lie in several blocks.
static void quantize_group(const Inputs& from, int64_t row, int64_t group, int64_t begin, int64_t end, int32_t middle,
                           const Quantized& to) {
    const int64_t tile = row / to.tiles.height, r = row % to.tiles.height, at = to.group_offset(group, tile) + r;
    const float most = largest_of(from, 4 * begin, 4 * end < from.count ? 4 * end : from.count);
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    int32_t sum = 0;
    while (begin < end) {
        int64_t block = begin / to.blocks.size * to.blocks.size, last = block + to.blocks.size;
        if (last > end) last = end;
        int32_t* words = to.words + to.blocks.offset(block, tile, to.tiles) + (begin - block) * to.tiles.height + r;
        sum += round_steps(from, begin, last, inverse, words, to.tiles.height);
        begin = last;
    }
    to.scales[at] = most / 127.0f;
    const float as_float = static_cast<float>(sum);
    to.offsets[at] = middle > 0 ? -middle * sum : bits_of<int32_t>(as_float);
}

// All rows of the call into `to`, and zeros into the rows that fill up the last tile; each slice does a part of them.
// `middle`: 0 where there are zero points.
static __attribute__((noinline)) void quantize(
    const Linear& weight, const LinearCall& call, int32_t middle, const Slice& slice, Quantized to) {
    const Range part = slice.part(to.tiles.count * to.tiles.height);
    const int64_t group_steps = weight.group / 4;
    for (int64_t row = part.begin; row < part.end; ++row) {
        const Inputs from{call.x + row * call.x_stride, weight.permutation, row < call.rows ? weight.k : 0};
        for (int64_t group = 0; group < to.groups; ++group) {
            int64_t begin = group * group_steps, end = begin + group_steps;
            quantize_group(from, row, group, begin, end < to.blocks.inputs ? end : to.blocks.inputs, middle, to);
        }
    }
}

}  // namespace segue::SEGUE_ISA
