#include "pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "blob.h"
#include "kernels.h"
#include "team.h"

namespace segue {
namespace {

float float_of_bf16(uint16_t bits16) {
    uint32_t bits = static_cast<uint32_t>(bits16) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

float float_of_f16(uint16_t h) {
    uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13, bits;
    float x;
    std::memcpy(&x, &magnitude, sizeof x);
    x *= 5.192296859e33f;  // 2^112, the difference of the exponents; makes subnormals normal
    std::memcpy(&bits, &x, sizeof bits);
    if ((h & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000;
    bits |= static_cast<uint32_t>(h & 0x8000) << 16;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

uint16_t bf16_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint16_t f16_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
    if (magnitude < (113u << 23)) {  // subnormal: adding 0.5 rounds to a multiple of 2^-24
        float y;
        std::memcpy(&y, &magnitude, sizeof y);
        y += 0.5f;
        std::memcpy(&bits, &y, sizeof bits);
        return static_cast<uint16_t>(sign | (bits - (126u << 23)));
    }
    return static_cast<uint16_t>(sign | ((magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13));
}

void read_floats(const FloatMatrix& from, int64_t row, int64_t begin, int64_t count, float* to) {
    int64_t offset = row * from.stride + begin;
    if (from.kind == WeightKind::f32) {
        std::memcpy(to, static_cast<const float*>(from.data) + offset, static_cast<size_t>(count) * sizeof *to);
        return;
    }
    const uint16_t* halves = static_cast<const uint16_t*>(from.data) + offset;
    if (from.kind == WeightKind::bf16)
        for (int64_t i = 0; i < count; ++i) to[i] = float_of_bf16(halves[i]);
    else
        for (int64_t i = 0; i < count; ++i) to[i] = float_of_f16(halves[i]);
}

template <class T, class Convert>
void write_transposed(const float (*block)[16], int64_t count, std::byte* to, Convert convert) {
    T* out = reinterpret_cast<T*>(to);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < panel_width; ++j) out[i * panel_width + j] = convert(block[j][i]);
}

// The row of the unpacked weight that `lane` of `panel` is; -1: none, it is filled up.
int64_t row_of(const Linear& linear, int64_t panel, int64_t lane) {
    int64_t width = linear.panel_outputs(), output = panel * width + lane % width;
    if (output >= linear.outputs()) return -1;
    return lane < width ? output : output + linear.outputs();
}

// Eight rows of eight halves to columns, by words of 2, 4 and 8 bytes: a copy number by number took four times as long.
void transpose_halves(const uint16_t* const* rows, int64_t at, uint16_t* to) {
    using Halves = uint16_t __attribute__((vector_size(16)));
    Halves x[8], y[8];
    for (int i = 0; i < 8; ++i) std::memcpy(&x[i], rows[i] + at, sizeof x[i]);
    for (int i = 0; i < 4; ++i) {
        y[2 * i] = __builtin_shuffle(x[i], x[i + 4], Halves{0, 8, 1, 9, 2, 10, 3, 11});
        y[2 * i + 1] = __builtin_shuffle(x[i], x[i + 4], Halves{4, 12, 5, 13, 6, 14, 7, 15});
    }
    for (int i = 0; i < 4; ++i) {
        x[2 * i] = __builtin_shuffle(y[i], y[i + 4], Halves{0, 8, 1, 9, 2, 10, 3, 11});
        x[2 * i + 1] = __builtin_shuffle(y[i], y[i + 4], Halves{4, 12, 5, 13, 6, 14, 7, 15});
    }
    for (int i = 0; i < 4; ++i) {
        y[2 * i] = __builtin_shuffle(x[i], x[i + 4], Halves{0, 8, 1, 9, 2, 10, 3, 11});
        y[2 * i + 1] = __builtin_shuffle(x[i], x[i + 4], Halves{4, 12, 5, 13, 6, 14, 7, 15});
    }
    for (int i = 0; i < 8; ++i) std::memcpy(to + i * panel_width, &y[i], sizeof y[i]);
}

// A whole panel of halves that stay as they are; false where it has rows to fill up, or inputs that are no eight.
bool copy_halves_panel(const Linear& linear, const FloatMatrix& weight, int64_t panel) {
    if (linear.kind != weight.kind || linear.kind == WeightKind::f32 || linear.k % 8 != 0) return false;
    const uint16_t* rows[panel_width];
    for (int64_t lane = 0; lane < panel_width; ++lane) {
        int64_t row = row_of(linear, panel, lane);
        if (row < 0) return false;
        rows[lane] = static_cast<const uint16_t*>(weight.data) + row * weight.stride;
    }
    uint16_t* to = reinterpret_cast<uint16_t*>(writable(linear.data)) + panel * linear.k * panel_width;
    // All of a cache line at once: lines of rows that are 4096 bytes apart would push each other out before the next part.
    for (int64_t i = 0; i < linear.k; i += 32)
        for (int64_t lane = 0; lane < panel_width; lane += 8)
            for (int64_t j = i; j < std::min(i + 32, linear.k); j += 8)
                transpose_halves(rows + lane, j, to + j * panel_width + lane);
    return true;
}

void pack_float_panel(const Linear& linear, const FloatMatrix& weight, int64_t panel) {
    if (copy_halves_panel(linear, weight, panel)) return;
    const int64_t k = linear.k;
    const size_t size = linear.kind == WeightKind::f32 ? 4 : 2;
    std::byte* to = writable(linear.data) + static_cast<size_t>(panel * k * panel_width) * size;
    float block[panel_width][16] = {};
    for (int64_t i = 0; i < k; i += 16, to += 16 * panel_width * size) {
        int64_t count = std::min<int64_t>(16, k - i);
        for (int64_t lane = 0; lane < panel_width; ++lane) {
            int64_t row = row_of(linear, panel, lane);
            if (row >= 0) read_floats(weight, row, i, count, block[lane]);
        }
        if (linear.kind == WeightKind::f32)
            write_transposed<float>(block, count, to, [](float x) { return x; });
        else if (linear.kind == WeightKind::bf16)
            write_transposed<uint16_t>(block, count, to, bf16_of);
        else
            write_transposed<uint16_t>(block, count, to, f16_of);
    }
}

size_t padded_outputs(int64_t n, bool gated) {
    Linear shape{};
    shape.n = n;
    shape.gated = gated;
    return static_cast<size_t>(shape.panels() * panel_width);
}

void pack_bias(const Linear& linear, const float* bias) {
    if (bias == nullptr) return;
    for (int64_t i = 0; i < linear.panels() * panel_width; ++i) {
        int64_t row = row_of(linear, i / panel_width, i % panel_width);
        if (row >= 0) writable(linear.bias)[i] = bias[row];
    }
}

bool has_8_bits(WeightKind kind) { return kind == WeightKind::i8 || kind == WeightKind::i8w; }

int64_t group_of(const IntFormat& format, int64_t k) {
    int64_t all = (k + 7) / 8 * 8;
    return format.group <= 0 || format.group > all ? all : format.group;
}

bool fit_halves(const float* scales, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        if (float_of_f16(f16_of(scales[i])) != scales[i]) return false;
    return true;
}

uint32_t word8(const uint8_t* codes, int64_t count) {
    uint32_t word = 0;
    std::memcpy(&word, codes, count < 4 ? static_cast<size_t>(count) : 4);
    return word ^ 0x80808080;
}

uint32_t word4(const uint8_t* codes, int64_t count) {
    uint32_t halves[2] = {0, 0};
    std::memcpy(halves, codes, count < 8 ? static_cast<size_t>(count) : 8);
    return halves[0] | halves[1] << 4;
}

// Inputs are filled up with codes of any value: activations are 0 there.
template <int inputs, class Word>
void pack_words(const Linear& linear, const uint8_t* codes, int64_t panel, Word word_of) {
    constexpr int64_t block = 64;  // words of all lanes that stay in the first-level cache
    const int64_t words = (linear.k + inputs - 1) / inputs, whole = linear.k / inputs;
    uint32_t* to = reinterpret_cast<uint32_t*>(writable(linear.data)) + panel * words * panel_width;
    for (int64_t first = 0; first < words; first += block)
        for (int64_t lane = 0; lane < panel_width; ++lane) {
            const int64_t row = row_of(linear, panel, lane);
            if (row < 0) continue;
            const uint8_t* from = codes + row * linear.k;
            int64_t word = first;
            for (; word < std::min(first + block, whole); ++word)
                to[word * panel_width + lane] = word_of(from + word * inputs, inputs);
            for (; word < std::min(first + block, words); ++word)
                to[word * panel_width + lane] = word_of(from + word * inputs, linear.k - word * inputs);
        }
}

void pack_scales(const Linear& linear, const Codes& codes, int64_t panel) {
    const int64_t groups = linear.groups();
    for (int64_t lane = 0; lane < panel_width; ++lane) {
        int64_t row = row_of(linear, panel, lane);
        if (row < 0) continue;
        for (int64_t group = 0; group < groups; ++group) {
            int64_t from = row * groups + group, to = (panel * groups + group) * panel_width + lane;
            if (linear.half_scales)
                writable(linear.half_scales)[to] = f16_of(codes.scales[from]);
            else
                writable(linear.scales)[to] = codes.scales[from];
            if (linear.zeros) writable(linear.zeros)[to] = codes.zeros[from];
        }
    }
}

}  // namespace

Packed pack_float(WeightKind kind, FloatMatrix weight, int64_t n, int64_t k, const float* bias, bool gated) {
    size_t outputs = padded_outputs(n, gated);
    BlobSizes sizes;
    sizes.data = outputs * static_cast<size_t>(k) * (kind == WeightKind::f32 ? 4 : 2);
    sizes.bias = bias ? outputs * sizeof(float) : 0;
    Packed packed = new_blob(kind, n, k, 0, gated, sizes);
    Team::get().run([&](const Slice& slice) {
        Range part = slice.part(packed.linear.panels());
        for (int64_t panel = part.begin; panel < part.end; ++panel) pack_float_panel(packed.linear, weight, panel);
    });
    pack_bias(packed.linear, bias);
    return packed;
}

Packed pack_codes(const IntFormat& format, const Codes& codes, int64_t n, int64_t k, const float* bias, bool gated) {
    const bool is8 = has_8_bits(format.kind);
    const size_t outputs = padded_outputs(n, gated);
    const int64_t group = group_of(format, k), groups = (k + group - 1) / group;
    const size_t num_scales = outputs * static_cast<size_t>(groups);
    const bool are_halves = fit_halves(codes.scales, n * groups);
    BlobSizes sizes;
    sizes.data = outputs * static_cast<size_t>(is8 ? (k + 3) / 4 : (k + 7) / 8) * 4;
    sizes.scales = are_halves ? 0 : num_scales * sizeof(float);
    sizes.half_scales = are_halves ? num_scales * sizeof(uint16_t) : 0;
    sizes.zeros = codes.zeros ? num_scales : 0;
    sizes.table = format.table ? 16 * sizeof(float) : 0;
    sizes.bias = bias ? outputs * sizeof(float) : 0;
    sizes.permutation = codes.permutation ? static_cast<size_t>(k) * sizeof(int32_t) : 0;
    Packed packed = new_blob(format.kind, n, k, group, gated, sizes);
    const Linear& linear = packed.linear;
    Team::get().run([&](const Slice& slice) {
        Range part = slice.part(linear.panels());
        for (int64_t panel = part.begin; panel < part.end; ++panel) {
            if (is8)
                pack_words<4>(linear, codes.codes, panel, word8);
            else
                pack_words<8>(linear, codes.codes, panel, word4);
            pack_scales(linear, codes, panel);
        }
    });
    pack_bias(linear, bias);
    if (format.table) std::memcpy(writable(linear.table), format.table, sizes.table);
    if (codes.permutation) std::memcpy(writable(linear.permutation), codes.permutation, sizes.permutation);
    return packed;
}

Packed quantize_linear(const IntFormat& format, FloatMatrix weight, int64_t n, int64_t k, bool has_zeros,
                       const float* bias, bool gated) {
    const int64_t group = group_of(format, k), groups = (k + group - 1) / group;
    const size_t element = weight.kind == WeightKind::f32 ? 4 : 2;
    std::unique_ptr<uint8_t[]> codes(new uint8_t[static_cast<size_t>(n * k)]);
    std::vector<float> scales(static_cast<size_t>(n * groups));
    std::vector<uint8_t> zeros(has_zeros ? scales.size() : 0);
    const LinearKernels& functions = kernels().linear;
    Team::get().run([&](const Slice& slice) {
        std::vector<float> buffer(static_cast<size_t>(std::min(k, group) + 16));
        Range part = slice.part(n);
        for (int64_t row = part.begin; row < part.end; ++row) {
            QuantizeCall call{};
            call.row = static_cast<const std::byte*>(weight.data) + static_cast<size_t>(row * weight.stride) * element;
            call.kind = weight.kind;
            call.k = k;
            call.group = group;
            call.bits = has_8_bits(format.kind) ? 8 : 4;
            call.table = format.table;
            call.buffer = buffer.data();
            call.codes = codes.get() + row * k;
            call.scales = scales.data() + row * groups;
            call.zeros = has_zeros ? zeros.data() + row * groups : nullptr;
            functions.quantize_row(call);
        }
    });
    Codes made{codes.get(), scales.data(), has_zeros ? zeros.data() : nullptr, nullptr};
    return pack_codes(format, made, n, k, bias, gated);
}

size_t linear_scratch_bytes(const Linear& weight, int64_t rows) {
    constexpr int64_t max_tile_rows = 12;  // tiles are filled up to equal heights
    const int64_t inputs = (weight.k + 7) / 8 * 8;
    return static_cast<size_t>(rows + max_tile_rows) * static_cast<size_t>(inputs + 2 * weight.groups()) * 4;
}

}  // namespace segue
