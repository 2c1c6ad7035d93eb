// Small products of floats in memory: queries with packed keys, weights with packed values.
#pragma once

#include "attention_rows.inl"
#include "native.inl"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

// Registers of a product's result: product_rows * product_columns, the rest for its operands.
constexpr int product_rows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int product_columns = 4;
#else
constexpr int product_columns = 2;
#endif

// c[rows, n] = a[rows, depth] · b[depth, n], each element summed in the order of depth; n: a multiple of 16.
struct Product {
    const float* a;
    int64_t a_stride;
    const float* b;
    int64_t b_stride, depth;
    float* c;
    int64_t c_stride;
    const float* kept;  // null, or [rows]: c, times this, is what sums begin with

    SEGUE_INLINE Product at(const Product& whole, int64_t row, int64_t column) {
        Product part = whole;
        part.a += row * part.a_stride;
        part.b += column;
        part.c += row * part.c_stride + column;
        if (part.kept != nullptr) part.kept += row;
        return part;
    }
};

// sum + left * right.
struct Floats {
    static constexpr int64_t count = 1;

    SEGUE_INLINE void from_floats(float*, int64_t) {}

    SEGUE_INLINE f32xr add(f32xr sum, float left, f32xr right) { return fused(all(left), right, sum); }

    // Dimension i of keys.
    template <CacheKind kind>
    SEGUE_INLINE f32xr keys(const Keys& keys, int64_t i) {
        return Keys::dimension<kind>(keys, i);
    }

    // Elements of row i from `at` on.
    template <CacheKind kind, bool is_whole, int columns>
    SEGUE_INLINE void values(const Rows& rows, int64_t i, int64_t, int64_t at, int64_t dim, f32xr (&out)[columns]) {
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j) out[j] = elements<kind, is_whole>(rows, i, at + j * register_lanes, dim);
    }
};

template <class Numbers, int rows, int columns>
static void multiply_block(const Product& p) {
    f32xr sums[rows][columns];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j)
            sums[i][j] = p.kept ? load<f32xr>(p.c + i * p.c_stride + j * register_lanes) * all(p.kept[i]) : f32xr{};
    const float *a = p.a, *b = p.b;
    for (int64_t k = 0; k < p.depth; ++k, b += p.b_stride) {
        f32xr right[columns];
        for (int j = 0; j < columns; ++j) right[j] = load<f32xr>(b + j * register_lanes);
        for (int i = 0; i < rows; ++i) {
            const float left = a[i * p.a_stride + k];
            for (int j = 0; j < columns; ++j) sums[i][j] = Numbers::add(sums[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) store(p.c + i * p.c_stride + j * register_lanes, sums[i][j]);
}

template <class Numbers, int columns>
static void multiply_columns(const Product& p, int64_t rows, int64_t column) {
    int64_t i = 0;
    for (; i + product_rows <= rows; i += product_rows)
        multiply_block<Numbers, product_rows, columns>(Product::at(p, i, column));
    const Product rest = Product::at(p, i, column);
    switch (rows - i) {
        case 1: return multiply_block<Numbers, 1, columns>(rest);
        case 2: return multiply_block<Numbers, 2, columns>(rest);
        case 3: return multiply_block<Numbers, 3, columns>(rest);
        case 4: return multiply_block<Numbers, 4, columns>(rest);
        case 5: return multiply_block<Numbers, 5, columns>(rest);
    }
}

template <class Numbers = Floats>
static void multiply(const Product& p, int64_t rows, int64_t n) {
    constexpr int64_t width = product_columns * register_lanes;
    int64_t column = 0;
    for (; column + width <= n; column += width) multiply_columns<Numbers, product_columns>(p, rows, column);
    switch ((n - column) / register_lanes) {
        case 1: return multiply_columns<Numbers, 1>(p, rows, column);
        case 2: return multiply_columns<Numbers, 2>(p, rows, column);
        case 3: return multiply_columns<Numbers, 3>(p, rows, column);
    }
}

}  // namespace segue::SEGUE_ISA
