// What the machine can do at most: reading memory, and multiplying what is in registers.
#pragma once

#include "linear_int.inl"

namespace segue::SEGUE_ISA {

// Reads every line of [from, from + size); size is a multiple of 512. The result hangs on all of them.
template <bool asks_ahead>
static uint32_t read_lines(const std::byte* from, size_t size) {
    unative sums[8] = {};
    constexpr size_t step = 8 * sizeof(unative);
    for (size_t i = 0; i < size; i += step)
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            if (asks_ahead) __builtin_prefetch(from + i + 4096 + j * sizeof(unative));
            sums[j] += load<unative>(from + i + j * sizeof(unative));
        }
    uint32_t total = 0;
    for (int j = 0; j < 8; ++j)
        for (int lane = 0; lane < native_lanes; ++lane) total += sums[j][lane];
    return total;
}

static uint32_t read_all(const std::byte* from, size_t size, bool asks_ahead) {
    return asks_ahead ? read_lines<true>(from, size) : read_lines<false>(from, size);
}

// `rounds` products of a full tile with weights that stay in the first-level cache. Returns the number of multiply-adds.
static int64_t multiply_cached(bool integers, int64_t rounds) {
    constexpr int64_t inputs = 64;
    alignas(64) float data[inputs * panel_width], x[inputs * max_tile_rows], sums[max_tile_rows * panel_width];
    for (float& value : data) value = 0.5f;
    for (float& value : x) value = 0.25f;
    int64_t words = inputs;
    for (int64_t round = 0; round < rounds; ++round) {
        for (int64_t column = 0; column < panel_width; column += tile_columns) {
            Ahead none{nullptr, 0, 0};
            if (integers) {
                inative acc[max_tile_rows][tile_vectors] = {};
                add_products<Codes8, max_tile_rows>(reinterpret_cast<const std::byte*>(data + column), words,
                                                    reinterpret_cast<const int32_t*>(x), none, acc);
                for (int r = 0; r < max_tile_rows; ++r)
                    for (int c = 0; c < tile_vectors; ++c)
                        store(sums + r * panel_width + column + c * native_lanes, acc[r][c]);
            } else {
                float_tile<F32, max_tile_rows>(data + column, x, inputs, false, none, sums + column);
            }
        }
        asm volatile("" : : "r"(sums) : "memory");
    }
    return rounds * inputs * panel_width * max_tile_rows * (integers ? 4 : 1);
}

}  // namespace segue::SEGUE_ISA
