#include "activations.inl"
#include "halves.inl"
#include "isa.h"
#include "rows.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

typedef double f64x16 __attribute__((vector_size(128)));

// Calls each(row, column, count) for this slice's pieces of [rows, dim]: count is `width`, or less at a row's end.
// Pieces are shared out across rows and columns alike, so that one long row uses all slices.
template <int width, class Each>
SEGUE_INLINE void for_each_piece(int64_t rows, int64_t dim, const Slice& slice, const Each& each) {
    constexpr int64_t share = 256;
    int64_t per_row = (dim + share - 1) / share;
    Range mine = slice.part(rows * per_row);
    for (int64_t piece = mine.begin; piece < mine.end; ++piece) {
        int64_t row = piece / per_row, begin = piece % per_row * share;
        int64_t end = begin + share < dim ? begin + share : dim;
        int64_t column = begin;
        for (; column + width <= end; column += width) each(row, column, width);
        if (column < end) each(row, column, end - column);
    }
}

static f32x16 load_as(const void* table, FloatKind kind, int64_t at, int64_t count) {
    if (kind == FloatKind::f32) return load_first<f32x16>(static_cast<const float*>(table) + at, count);
    const uint16_t* from = static_cast<const uint16_t*>(table) + at;
    uint16_t whole[lanes] = {};
    if (count < lanes) {
        for (int64_t i = 0; i < count; ++i) whole[i] = from[i];
        from = whole;
    }
    return kind == FloatKind::f16 ? from_f16(from) : from_bf16(from);
}

static void embed(const EmbedCall& call, const Slice& slice) {
    for_each_piece<lanes>(call.rows, call.dim, slice, [&](int64_t row, int64_t column, int64_t count) {
        int64_t id = call.ids[row] + call.offset;
        float* out = call.out + row * call.out_stride + column;
        f32x16 value = load_as(call.table, call.kind, id * call.dim + column, count) * call.scale;
        if (call.accumulate) value += load_first<f32x16>(out, count);
        store_first(out, value, count);
    });
}

// The sum of each(x) over x[dim], in four strands.
template <class Each>
SEGUE_INLINE float reduce(const float* x, int64_t dim, const Each& each) {
    f32xr sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * register_lanes <= dim; i += 4 * register_lanes)
        for (int strand = 0; strand < 4; ++strand) sums[strand] += each(load<f32xr>(x + i + strand * register_lanes));
    for (; i + register_lanes <= dim; i += register_lanes) sums[0] += each(load<f32xr>(x + i));
    float rest[register_lanes] = {};
    if (i < dim) {
        store(rest, each(load_first<f32xr>(x + i, dim - i)));
        for (int64_t lane = dim - i; lane < register_lanes; ++lane) rest[lane] = 0;
    }
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]) + load<f32xr>(rest));
}

struct Moments {
    float mean, spread;  // out = (x - mean) * spread
};

static Moments moments_of(const float* x, const NormCall& call) {
    float mean = 0;
    if (call.centered) mean = reduce(x, call.dim, [](f32xr v) { return v; }) / static_cast<float>(call.dim);
    float squares = reduce(x, call.dim, [mean](f32xr v) { return (v - mean) * (v - mean); });
    return {mean, 1.0f / __builtin_sqrtf(squares / static_cast<float>(call.dim) + call.eps)};
}

SEGUE_INLINE void normalize_part(const float* x, const NormCall& call, Moments moments, int64_t i, int64_t count,
                                 float* out) {
    f32xr value = (load_first<f32xr>(x + i, count) - moments.mean) * moments.spread;
    if (call.weight != nullptr) value *= load_first<f32xr>(call.weight + i, count);
    if (call.bias != nullptr) value += load_first<f32xr>(call.bias + i, count);
    store_first(out + i, value, count);
}

static void normalize(const float* x, const NormCall& call, float* out) {
    Moments moments = moments_of(x, call);
    int64_t i = 0;
    for (; i + register_lanes <= call.dim; i += register_lanes) normalize_part(x, call, moments, i, register_lanes, out);
    if (i < call.dim) normalize_part(x, call, moments, i, call.dim - i, out);
}

static void norm(const NormCall& call, const Slice& slice) {
    Range mine = slice.part(call.rows * call.groups);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        int64_t row = i / call.groups, group = i % call.groups;
        normalize(call.x + row * call.x_stride + group * call.x_group_stride, call,
                  call.out + row * call.out_stride + group * call.out_group_stride);
    }
}

struct CosSin {
    f32x16 cos, sin;
};

// Angles up to 10^9: the multiple of π/2 is taken off in double precision.
static CosSin cos_sin(f32x16 angle) {
    constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
    f64x16 x = __builtin_convertvector(angle, f64x16);
    f64x16 quarters = (x * 0.63661977236758134308 + rounder) - rounder;
    f32x16 r = __builtin_convertvector(x - quarters * 1.57079632679489661923, f32x16);
    i32x16 quadrant = __builtin_convertvector(quarters, i32x16) & 3;
    f32x16 s = r * r;
    f32x16 p = s * 2.724910434e-6f - 1.984007959e-4f;  // (sin(√s) / √s - 1) / s up to √s = π/4
    p = p * s + 8.333331859e-3f;
    p = p * s - 1.666666666e-1f;
    f32x16 sine = (p * s) * r + r;
    p = s * -2.730042966e-7f + 2.480059586e-5f;  // (cos(√s) - 1 + s/2) / s^2
    p = p * s - 1.388888766e-3f;
    p = p * s + 4.166666666e-2f;
    f32x16 cosine = (p * s) * s - s * 0.5f + 1.0f;
    i32x16 swapped = -(quadrant & 1), a = bits_of<i32x16>(sine), b = bits_of<i32x16>(cosine);
    i32x16 cos_sign = ((quadrant + 1) & 2) << 30, sin_sign = (quadrant & 2) << 30;
    return {bits_of<f32x16>(((a & swapped) | (b & ~swapped)) ^ cos_sign),
            bits_of<f32x16>(((b & swapped) | (a & ~swapped)) ^ sin_sign)};
}

static void angles(const AnglesCall& call, const Slice& slice) {
    for_each_piece<lanes>(call.rows, call.pairs, slice, [&](int64_t row, int64_t pair, int64_t count) {
        bool is_long = call.is_long != nullptr && call.is_long[row];
        const float* inverse = is_long ? call.long_inverse : call.inverse;
        float factor = is_long ? call.long_factor : call.factor;
        f32x16 angle = load_first<f32x16>(inverse + pair, count) * static_cast<float>(call.positions[row]);
        CosSin both = cos_sin(angle);
        float* out = call.out + row * 2 * call.pairs + pair;
        store_first(out, both.cos * factor, count);
        store_first(out + call.pairs, both.sin * factor, count);
    });
}

static void rotate_halves(float* x, const float* cos, const float* sin, int64_t pairs) {
    for (int64_t i = 0; i < pairs; i += register_lanes) {
        int64_t count = pairs - i;
        f32xr c = load_first<f32xr>(cos + i, count), s = load_first<f32xr>(sin + i, count);
        f32xr a = load_first<f32xr>(x + i, count), b = load_first<f32xr>(x + pairs + i, count);
        store_first(x + i, a * c - b * s, count);
        store_first(x + pairs + i, b * c + a * s, count);
    }
}

static void rotate_neighbours(float* x, const float* cos, const float* sin, int64_t pairs) {
    for (int64_t i = 0; i < pairs; ++i) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

static void rotate(const RotateCall& call, const Slice& slice) {
    Range mine = slice.part(call.rows * call.heads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        int64_t row = i / call.heads;
        float* x = call.x + row * call.x_stride + i % call.heads * call.head_dim;
        const float* cos = call.angles + row * 2 * call.pairs;
        (call.interleaved ? rotate_neighbours : rotate_halves)(x, cos, cos + call.pairs, call.pairs);
    }
}

static void binary(const BinaryCall& call, const Slice& slice) {
    for_each_piece<register_lanes>(call.rows, call.dim, slice, [&](int64_t row, int64_t column, int64_t count) {
        f32xr a = load_first<f32xr>(call.a + row * call.a_stride + column, count);
        f32xr b = load_first<f32xr>(call.b + row * call.b_stride + column, count);
        f32xr value = call.op == Binary::add ? a + b : a * b;
        store_first(call.out + row * call.out_stride + column, value * call.scale, count);
    });
}

static void activate_rows(const ActivateCall& call, const Slice& slice) {
    for_each_piece<register_lanes>(call.rows, call.dim, slice, [&](int64_t row, int64_t column, int64_t count) {
        f32xr value = load_first<f32xr>(call.x + row * call.x_stride + column, count) * call.scale;
        if (call.soft_cap > 0)
            value = tanh(value / call.soft_cap) * call.soft_cap;
        else
            value = activate_register(call.activation, value);
        if (call.multiplied != nullptr)
            value *= load_first<f32xr>(call.multiplied + row * call.multiplied_stride + column, count);
        store_first(call.out + row * call.out_stride + column, value, count);
    });
}

static void gather(const GatherCall& call, const Slice& slice) {
    for_each_piece<register_lanes>(call.rows, call.dim, slice, [&](int64_t row, int64_t column, int64_t count) {
        f32xr value = load_first<f32xr>(call.x + call.indices[row] * call.x_stride + column, count);
        store_first(call.out + row * call.out_stride + column, value, count);
    });
}

static constexpr RowKernels row_kernels = {embed, norm, angles, rotate, binary, activate_rows, gather};

}  // namespace segue::SEGUE_ISA
