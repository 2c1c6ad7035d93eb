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
    // What a group's products lack: -middle times the sum of the codes, where weights' codes are `middle` too large; the
    // sum itself, as the bits of a float, where zero points are multiplied with it.
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

SEGUE_INLINE float inverse_of(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

SEGUE_INLINE i32x16 codes_of(f32x16 x, float inverse) {
    constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
    return bits_of<i32x16>(x * inverse + rounder) - bits_of<i32x16>(broadcast(rounder));
}

SEGUE_INLINE int32_t sum_of(i32x16 values) {
    int32_t total = 0, part[lanes];
    store(part, values);
    for (int i = 0; i < lanes; ++i) total += part[i];
    return total;
}

// Inputs of steps [begin, end) → words `stride` apart. Returns the sum of their codes.
static int32_t round_steps(
    const Inputs& from, int64_t begin, int64_t end, float inverse, int32_t* to, int64_t stride) {
    const int64_t last = 4 * end < from.count ? 4 * end : from.count;
    i32x16 sums{};
    for (int64_t step = begin; step < end; step += lanes / 4) {
        const i32x16 codes = codes_of(inputs_at(from.x, from.permutation, 4 * step, last), inverse);
        sums += codes;
        int32_t words[lanes / 4];
        store(words, __builtin_convertvector(codes, i8x16));
        for (int64_t i = 0; i < lanes / 4 && step + i < end; ++i, to += stride) *to = words[i];
    }
    return sum_of(sums);
}

// Quantizes one call's rows, and zeros for the rows that fill up the last tile.
class Quantizer {
  public:
    // `middle`: 0 where there are zero points.
    Quantizer(const Linear& weight, const LinearCall& call, int32_t middle, const Quantized& to)
        : weight_(weight), call_(call), middle_(middle), to_(to) {}

    void group(int64_t row, int64_t group) const {
        const Inputs from = inputs_of(row);
        const Range steps = steps_of_group(group);
        measure(from, row, group);
        set_offset(row, group, round(from, row, group, steps));
    }

    // The scale, and what sums lack, without the words.
    void scale(int64_t row, int64_t group) const {
        const Inputs from = inputs_of(row);
        const Range inputs = measure(from, row, group);
        i32x16 sums{};
        for (int64_t i = inputs.begin; i < inputs.end; i += lanes)
            sums += codes_of(inputs_at(from.x, from.permutation, i, inputs.end), inverse_of(to_.scales[at(row, group)]));
        set_offset(row, group, sum_of(sums));
    }

    // The words of a row's steps, whose scales are known.
    void words(int64_t row, Range steps) const {
        for (int64_t group = 0; group < to_.groups; ++group) {
            Range part = steps_of_group(group);
            if (part.begin < steps.begin) part.begin = steps.begin;
            if (part.end > steps.end) part.end = steps.end;
            round(inputs_of(row), row, group, part);
        }
    }

  private:
    int64_t at(int64_t row, int64_t group) const {
        return to_.group_offset(group, row / to_.tiles.height) + row % to_.tiles.height;
    }

    Inputs inputs_of(int64_t row) const {
        return {call_.x + row * call_.x_stride, weight_.permutation, row < call_.rows ? weight_.k : 0};
    }

    Range steps_of_group(int64_t group) const {
        const int64_t size = weight_.group / 4, end = (group + 1) * size;
        return {group * size, end < to_.blocks.inputs ? end : to_.blocks.inputs};
    }

    // Returns the group's inputs.
    Range measure(const Inputs& from, int64_t row, int64_t group) const {
        const Range steps = steps_of_group(group);
        const Range inputs{4 * steps.begin, 4 * steps.end < from.count ? 4 * steps.end : from.count};
        to_.scales[at(row, group)] = largest_of(from, inputs.begin, inputs.end) / 127.0f;
        return inputs;
    }

    void set_offset(int64_t row, int64_t group, int32_t sum) const {
        const float as_float = static_cast<float>(sum);
        to_.offsets[at(row, group)] = middle_ > 0 ? -middle_ * sum : bits_of<int32_t>(as_float);
    }

    // Steps of one group, which may lie in several blocks. Returns the sum of their codes.
    int32_t round(const Inputs& from, int64_t row, int64_t group, Range steps) const {
        const int64_t height = to_.tiles.height, tile = row / height;
        const float inverse = inverse_of(to_.scales[at(row, group)]);
        int32_t sum = 0;
        while (steps.begin < steps.end) {
            const int64_t block = steps.begin / to_.blocks.size * to_.blocks.size, last = block + to_.blocks.size;
            const int64_t end = last < steps.end ? last : steps.end;
            int32_t* words =
                to_.words + to_.blocks.offset(block, tile, to_.tiles) + (steps.begin - block) * height + row % height;
            sum += round_steps(from, steps.begin, end, inverse, words, height);
            steps.begin = end;
        }
        return sum;
    }

    const Linear& weight_;
    const LinearCall& call_;
    const int32_t middle_;
    const Quantized& to_;
};

// Slices share out rows where each has tiles of its own, and else inputs: the rows of a tile lie side by side in each
// cache line, and to write them from two cores took 10 µs of the 60 of 12 rows of 2048 x 1024 (Zen 5).
static __attribute__((noinline)) void quantize(
    const Linear& weight, const LinearCall& call, int32_t middle, const Slice& slice, const Quantized& to) {
    const int64_t rows = to.tiles.count * to.tiles.height;
    const Quantizer quantizer{weight, call, middle, to};
    const bool has_tiles = to.tiles.count % slice.count == 0 || to.tiles.count > 2 * slice.count || rows == 1;
    if (has_tiles || to.groups >= slice.count) {
        const Range part = has_tiles ? slice.part(rows) : Range{0, rows};
        const Range groups = has_tiles ? Range{0, to.groups} : slice.part(to.groups);
        for (int64_t row = part.begin; row < part.end; ++row)
            for (int64_t group = groups.begin; group < groups.end; ++group) quantizer.group(row, group);
        return;
    }
    const Range part = slice.part(rows), steps = slice.part(to.blocks.inputs, lanes);
    for (int64_t row = part.begin; row < part.end; ++row)
        for (int64_t group = 0; group < to.groups; ++group) quantizer.scale(row, group);
    slice.barrier();
    for (int64_t row = 0; row < rows; ++row) quantizer.words(row, steps);
}

}  // namespace segue::SEGUE_ISA
