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

struct Row {
    const std::byte* data;
    WeightKind kind;
};

size_t size_of(WeightKind kind) { return kind == WeightKind::f32 ? 4 : 2; }

Row row_in(const FloatParts& parts, int64_t row) {
    const FloatMatrix* part = parts.data();
    for (; row >= part->rows; ++part) row -= part->rows;
    return {static_cast<const std::byte*>(part->data) + static_cast<size_t>(row * part->stride) * size_of(part->kind),
            part->kind};
}

void read_floats(const Row& row, int64_t begin, int64_t count, float* to) {
    const std::byte* from = row.data + static_cast<size_t>(begin) * size_of(row.kind);
    if (row.kind == WeightKind::f32) {
        std::memcpy(to, from, static_cast<size_t>(count) * sizeof *to);
        return;
    }
    uint16_t halves[16];
    std::memcpy(halves, from, static_cast<size_t>(count) * sizeof *halves);
    for (int64_t i = 0; i < count; ++i)
        to[i] = row.kind == WeightKind::bf16 ? float_of_bf16(halves[i]) : float_of_f16(halves[i]);
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

// How far ahead of their use rows are fetched: processors follow fewer streams than a panel has rows.
constexpr size_t prefetch_bytes = 512;

// Eight rows of eight halves to columns, by words of 2, 4 and 8 bytes: a copy number by number took four times as long.
void transpose_halves(const std::byte* const* rows, size_t at, uint16_t* to) {
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

// Alike: four rows of four words.
void transpose_words(const std::byte* const* rows, size_t at, uint32_t* to) {
    using Words = uint32_t __attribute__((vector_size(16)));
    Words x[4], y[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&x[i], rows[i] + at, sizeof x[i]);
    for (int i = 0; i < 2; ++i) {
        y[2 * i] = __builtin_shuffle(x[i], x[i + 2], Words{0, 4, 1, 5});
        y[2 * i + 1] = __builtin_shuffle(x[i], x[i + 2], Words{2, 6, 3, 7});
    }
    for (int i = 0; i < 2; ++i) {
        x[2 * i] = __builtin_shuffle(y[i], y[i + 2], Words{0, 4, 1, 5});
        x[2 * i + 1] = __builtin_shuffle(y[i], y[i + 2], Words{2, 6, 3, 7});
    }
    for (int i = 0; i < 4; ++i) std::memcpy(to + i * panel_width, &x[i], sizeof x[i]);
}

// A panel's rows [panel_width][count] → [count][panel_width], T of 4 or 2 bytes. All of a cache line at once: lines of
// rows that are 4096 bytes apart would push each other out before the next part.
template <class T>
void transpose_panel(const std::byte* const* rows, int64_t count, T* to) {
    constexpr int64_t tile = 16 / sizeof(T), line = 64 / sizeof(T);
    const int64_t whole = count / tile * tile;
    for (int64_t i = 0; i < whole; i += line)
        for (int64_t lane = 0; lane < panel_width; lane += tile) {
            for (int64_t r = 0; r < tile; ++r)
                __builtin_prefetch(rows[lane + r] + static_cast<size_t>(i) * sizeof(T) + prefetch_bytes);
            for (int64_t j = i; j < std::min(i + line, whole); j += tile) {
                const size_t at = static_cast<size_t>(j) * sizeof(T);
                if constexpr (sizeof(T) == 4)
                    transpose_words(rows + lane, at, to + j * panel_width + lane);
                else
                    transpose_halves(rows + lane, at, to + j * panel_width + lane);
            }
        }
    for (int64_t i = whole; i < count; ++i)
        for (int64_t lane = 0; lane < panel_width; ++lane)
            std::memcpy(to + i * panel_width + lane, rows[lane] + static_cast<size_t>(i) * sizeof(T), sizeof(T));
}

// A whole panel of numbers that stay as they are; false where it has rows to fill up, or rows of another kind.
bool copy_panel(const Linear& linear, const FloatParts& weight, int64_t panel) {
    const std::byte* rows[panel_width];
    for (int64_t lane = 0; lane < panel_width; ++lane) {
        int64_t row = row_of(linear, panel, lane);
        if (row < 0) return false;
        Row found = row_in(weight, row);
        if (found.kind != linear.kind) return false;
        rows[lane] = found.data;
    }
    std::byte* to = writable(linear.data) + static_cast<size_t>(panel * linear.k * panel_width) * size_of(linear.kind);
    if (linear.kind == WeightKind::f32)
        transpose_panel(rows, linear.k, reinterpret_cast<uint32_t*>(to));
    else
        transpose_panel(rows, linear.k, reinterpret_cast<uint16_t*>(to));
    return true;
}

void pack_float_panel(const Linear& linear, const FloatParts& weight, int64_t panel) {
    if (copy_panel(linear, weight, panel)) return;
    const int64_t k = linear.k;
    const size_t size = size_of(linear.kind);
    std::byte* to = writable(linear.data) + static_cast<size_t>(panel * k * panel_width) * size;
    float block[panel_width][16] = {};
    for (int64_t i = 0; i < k; i += 16, to += 16 * panel_width * size) {
        int64_t count = std::min<int64_t>(16, k - i);
        for (int64_t lane = 0; lane < panel_width; ++lane) {
            int64_t row = row_of(linear, panel, lane);
            if (row >= 0) read_floats(row_in(weight, row), i, count, block[lane]);
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

// A row's codes → words as the kernels read them. Inputs are filled up with codes of any value: activations are 0 there.
void to_words(const uint8_t* codes, int64_t k, bool is8, uint32_t* words) {
    if (is8) {
        for (int64_t i = 0; i < k / 4; ++i) {
            std::memcpy(words + i, codes + 4 * i, 4);
            words[i] ^= 0x80808080;
        }
        if (k % 4 != 0) {
            uint32_t last = 0;
            std::memcpy(&last, codes + k / 4 * 4, static_cast<size_t>(k % 4));
            words[k / 4] = last ^ 0x80808080;
        }
        return;
    }
    for (int64_t i = 0; i < (k + 7) / 8; ++i) {
        uint32_t halves[2] = {0, 0};
        std::memcpy(halves, codes + 8 * i, static_cast<size_t>(std::min<int64_t>(8, k - 8 * i)));
        words[i] = halves[0] | halves[1] << 4;
    }
}

// Room for one panel's words, row by row, on one thread.
class PanelWords {
  public:
    PanelWords(const Linear& linear, bool is8)
        : linear_(linear),
          is8_(is8),
          words_(is8 ? (linear.k + 3) / 4 : (linear.k + 7) / 8),
          stride_((words_ + 15) / 16 * 16 + 16),  // no power of two: rows would share their places in the cache
          memory_(static_cast<size_t>(stride_ * panel_width)) {
        for (int64_t lane = 0; lane < panel_width; ++lane) rows_[lane] = reinterpret_cast<std::byte*>(row(lane));
    }

    void fill(int64_t lane, const uint8_t* codes) { to_words(codes, linear_.k, is8_, row(lane)); }
    void clear(int64_t lane) { std::fill_n(row(lane), words_, 0u); }
    void write(int64_t panel) const {
        uint32_t* to = reinterpret_cast<uint32_t*>(writable(linear_.data)) + panel * words_ * panel_width;
        transpose_panel(rows_, words_, to);
    }

  private:
    uint32_t* row(int64_t lane) { return memory_.data() + lane * stride_; }

    const Linear& linear_;
    const bool is8_;
    const int64_t words_, stride_;
    std::vector<uint32_t> memory_;
    const std::byte* rows_[panel_width];
};

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

// What integers of [n, k] with scales of 32 or 16 bits take.
BlobSizes int_sizes(const IntFormat& format, int64_t n, int64_t k, bool has_zeros, bool has_bias, bool gated,
                    bool are_halves) {
    const size_t outputs = padded_outputs(n, gated);
    const int64_t group = group_of(format, k);
    const size_t num_scales = outputs * static_cast<size_t>((k + group - 1) / group);
    BlobSizes sizes;
    sizes.data = outputs * static_cast<size_t>(has_8_bits(format.kind) ? (k + 3) / 4 : (k + 7) / 8) * 4;
    sizes.scales = are_halves ? 0 : num_scales * sizeof(float);
    sizes.half_scales = are_halves ? num_scales * sizeof(uint16_t) : 0;
    sizes.zeros = has_zeros ? num_scales : 0;
    sizes.table = format.table ? 16 * sizeof(float) : 0;
    sizes.bias = has_bias ? outputs * sizeof(float) : 0;
    return sizes;
}

// All but the codes themselves.
void pack_rest(const Linear& linear, const IntFormat& format, const Codes& codes, const float* bias) {
    Team::get().run([&](const Slice& slice) {
        Range part = slice.part(linear.panels());
        for (int64_t panel = part.begin; panel < part.end; ++panel) pack_scales(linear, codes, panel);
    });
    pack_bias(linear, bias);
    if (format.table) std::memcpy(writable(linear.table), format.table, 16 * sizeof(float));
}

// Rounds the rows of panels, and packs each panel while its codes are in the cache.
void quantize_panels(const Linear& linear, const QuantizeCall& to_all, const FloatParts& weight, const Slice& slice) {
    const int64_t groups = linear.groups();
    const auto quantize_row = kernels().linear.quantize_row;
    std::vector<float> buffer(static_cast<size_t>(std::min(to_all.k, to_all.group) + 16));
    std::vector<uint8_t> codes(static_cast<size_t>(to_all.k));
    PanelWords words(linear, to_all.bits == 8);
    Range part = slice.part(linear.panels());
    for (int64_t panel = part.begin; panel < part.end; ++panel) {
        for (int64_t lane = 0; lane < panel_width; ++lane) {
            const int64_t row = row_of(linear, panel, lane);
            if (row < 0) {
                words.clear(lane);
                continue;
            }
            const Row from = row_in(weight, row);
            QuantizeCall call = to_all;
            call.row = from.data;
            call.kind = from.kind;
            call.buffer = buffer.data();
            call.codes = codes.data();
            call.scales += row * groups;
            if (call.zeros != nullptr) call.zeros += row * groups;
            quantize_row(call);
            words.fill(lane, codes.data());
        }
        words.write(panel);
    }
}

}  // namespace

Packed pack_float(WeightKind kind, const FloatParts& weight, int64_t n, int64_t k, const float* bias, bool gated) {
    size_t outputs = padded_outputs(n, gated);
    BlobSizes sizes;
    sizes.data = outputs * static_cast<size_t>(k) * size_of(kind);
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
    const int64_t group = group_of(format, k), groups = (k + group - 1) / group;
    const bool are_halves = fit_halves(codes.scales, n * groups);
    BlobSizes sizes = int_sizes(format, n, k, codes.zeros != nullptr, bias != nullptr, gated, are_halves);
    sizes.permutation = codes.permutation ? static_cast<size_t>(k) * sizeof(int32_t) : 0;
    Packed packed = new_blob(format.kind, n, k, group, gated, sizes);
    const Linear& linear = packed.linear;
    Team::get().run([&](const Slice& slice) {
        PanelWords words(linear, has_8_bits(format.kind));
        Range part = slice.part(linear.panels());
        for (int64_t panel = part.begin; panel < part.end; ++panel) {
            for (int64_t lane = 0; lane < panel_width; ++lane) {
                const int64_t row = row_of(linear, panel, lane);
                if (row < 0)
                    words.clear(lane);
                else
                    words.fill(lane, codes.codes + row * k);
            }
            words.write(panel);
        }
    });
    pack_rest(linear, format, codes, bias);
    if (codes.permutation) std::memcpy(writable(linear.permutation), codes.permutation, sizes.permutation);
    return packed;
}

Packed quantize_linear(const IntFormat& format, const FloatParts& weight, int64_t n, int64_t k, bool has_zeros,
                       const float* bias, bool gated) {
    const int64_t group = group_of(format, k), groups = (k + group - 1) / group;
    std::vector<float> scales(static_cast<size_t>(n * groups));
    std::vector<uint8_t> zeros(has_zeros ? scales.size() : 0);
    QuantizeCall call{};
    call.k = k;
    call.group = group;
    call.bits = has_8_bits(format.kind) ? 8 : 4;
    call.table = format.table;
    call.scales = scales.data();
    call.zeros = has_zeros ? zeros.data() : nullptr;
    // Rounding to 4 bits makes scales of 16 where these reach, so that their size is nearly always known before.
    bool are_halves = call.bits == 4;
    auto allocate = [&] {
        BlobSizes sizes = int_sizes(format, n, k, has_zeros, bias != nullptr, gated, are_halves);
        return new_blob(format.kind, n, k, group, gated, sizes);
    };
    Packed packed = allocate();
    Team::get().run([&](const Slice& slice) { quantize_panels(packed.linear, call, weight, slice); });
    if (fit_halves(scales.data(), n * groups) != are_halves) {
        are_halves = !are_halves;
        Packed other = allocate();
        const BlobSizes sizes = int_sizes(format, n, k, has_zeros, bias != nullptr, gated, are_halves);
        std::memcpy(writable(other.linear.data), packed.linear.data, sizes.data);
        packed = other;
    }
    Codes made{nullptr, scales.data(), has_zeros ? zeros.data() : nullptr, nullptr};
    pack_rest(packed.linear, format, made, bias);
    return packed;
}

size_t linear_scratch_bytes(const Linear& weight, int64_t rows) {
    constexpr int64_t max_tile_rows = 12;  // tiles are filled up to equal heights
    const int64_t inputs = (weight.k + 7) / 8 * 8;
    return static_cast<size_t>(rows + max_tile_rows) * static_cast<size_t>(inputs + 2 * weight.groups()) * 4;
}

}  // namespace segue
