#include <vector>

#include "float16.h"
#include "kernels.h"
#include "pack.h"
#include "panels.h"
#include "team.h"

namespace segue {
namespace {

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
    uint32_t halves[2];
    for (int64_t i = 0; i < k / 8; ++i) {
        std::memcpy(halves, codes + 8 * i, 8);
        words[i] = halves[0] | halves[1] << 4;
    }
    if (k % 8 != 0) {
        halves[0] = halves[1] = 0;
        std::memcpy(halves, codes + k / 8 * 8, static_cast<size_t>(k % 8));
        words[k / 8] = halves[0] | halves[1] << 4;
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

// Panels as they come; codes_of(row) gives a row's codes, which are read before the next is asked for.
template <class CodesOf>
void write_panels(const Linear& linear, bool is8, Panels& panels, const CodesOf& codes_of) {
    PanelWords words(linear, is8);
    for (int64_t panel; (panel = panels.next()) >= 0;) {
        for (int64_t lane = 0; lane < panel_width; ++lane) {
            const int64_t row = row_of(linear, panel, lane);
            if (row < 0)
                words.clear(lane);
            else
                words.fill(lane, codes_of(row));
        }
        words.write(panel);
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
void quantize_panels(const Linear& linear, const QuantizeCall& to_all, const FloatParts& weight, Panels& panels) {
    const int64_t groups = linear.groups();
    const auto quantize_row = kernels().linear.quantize_row;
    std::vector<float> buffer(static_cast<size_t>(std::min(to_all.k, to_all.group) + 16));
    std::vector<uint8_t> codes(static_cast<size_t>(to_all.k));
    write_panels(linear, to_all.bits == 8, panels, [&](int64_t row) {
        const Row from = row_in(weight, row);
        QuantizeCall call = to_all;
        call.row = from.data;
        call.kind = from.kind;
        call.buffer = buffer.data();
        call.codes = codes.data();
        call.scales += row * groups;
        if (call.zeros != nullptr) call.zeros += row * groups;
        quantize_row(call);
        return codes.data();
    });
}

}  // namespace

Packed pack_codes(const IntFormat& format, const Codes& codes, int64_t n, int64_t k, const float* bias, bool gated) {
    const int64_t group = group_of(format, k), groups = (k + group - 1) / group;
    const bool are_halves = fit_halves(codes.scales, n * groups);
    BlobSizes sizes = int_sizes(format, n, k, codes.zeros != nullptr, bias != nullptr, gated, are_halves);
    sizes.permutation = codes.permutation ? static_cast<size_t>(k) * sizeof(int32_t) : 0;
    Packed packed = new_blob(format.kind, n, k, group, gated, sizes);
    const Linear& linear = packed.linear;
    Panels panels(linear);
    Team::get().run([&](const Slice&) {
        write_panels(linear, has_8_bits(format.kind), panels, [&](int64_t row) { return codes.codes + row * k; });
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
    BlobSizes sizes;
    auto allocate = [&] {
        sizes = int_sizes(format, n, k, has_zeros, bias != nullptr, gated, are_halves);
        return new_blob(format.kind, n, k, group, gated, sizes);
    };
    Packed packed = allocate();
    Panels panels(packed.linear);
    Team::get().run([&](const Slice&) { quantize_panels(packed.linear, call, weight, panels); });
    if (fit_halves(scales.data(), n * groups) != are_halves) {
        are_halves = !are_halves;
        Packed other = allocate();
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
