#include <memory>
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

void pack_scales_of(const Linear& linear, const Codes& codes, int64_t panel) {
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

void pack_scales(const Linear& linear, const Codes& codes) {
    Team::get().run([&](const Slice& slice) {
        Range part = slice.part(linear.panels());
        for (int64_t panel = part.begin; panel < part.end; ++panel) pack_scales_of(linear, codes, panel);
    });
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

// The rows of a panel, of which groups of inputs become columns, on one thread.
class PanelColumns {
  public:
    // `most`: inputs at a time.
    PanelColumns(const Linear& linear, int64_t most)
        : linear_(linear),
          columns_(new float[static_cast<size_t>(most * panel_width)]),
          buffer_(new float[static_cast<size_t>(most * panel_width)]),
          zeros_(static_cast<size_t>(linear.k)) {}

    void take(const FloatParts& weight, int64_t panel) {
        is_mixed_ = false;
        for (int64_t lane = 0; lane < panel_width; ++lane) {
            const int64_t row = row_of(linear_, panel, lane);
            rows_[lane] = row < 0 ? Row{nullptr, rows_[0].kind} : row_in(weight, row);  // lane 0 has always one
            if (row < 0) rows_[lane].data = reinterpret_cast<const std::byte*>(zeros_.data());
            is_mixed_ |= rows_[lane].kind != rows_[0].kind;
        }
    }

    float largest(int64_t lane, int64_t begin, int64_t count) const {
        const Row& row = rows_[lane];
        return kernels().linear.largest(row.data + static_cast<size_t>(begin) * size_of(row.kind), row.kind, count);
    }

    // Inputs [begin, begin + count) as `columns` of `call`, and where it may work.
    void fill(int64_t begin, int64_t count, QuantizeCall& call) {
        call.columns = columns_.get();
        call.buffer = buffer_.get();
        call.count = count;
        call.kind = is_mixed_ ? WeightKind::f32 : rows_[0].kind;
        if (is_mixed_) return mix(begin, count);
        const std::byte* from[panel_width];
        for (int64_t lane = 0; lane < panel_width; ++lane)
            from[lane] = rows_[lane].data + static_cast<size_t>(begin) * size_of(call.kind);
        if (call.kind == WeightKind::f32)
            transpose_panel(from, count, reinterpret_cast<uint32_t*>(columns_.get()));
        else
            transpose_panel(from, count, reinterpret_cast<uint16_t*>(columns_.get()));
    }

  private:
    void mix(int64_t begin, int64_t count) {
        float part[16];
        for (int64_t lane = 0; lane < panel_width; ++lane)
            for (int64_t i = 0; i < count; i += 16) {
                const int64_t inputs = std::min<int64_t>(16, count - i);
                read_floats(rows_[lane], begin + i, inputs, part);
                for (int64_t j = 0; j < inputs; ++j) columns_[static_cast<size_t>((i + j) * panel_width + lane)] = part[j];
            }
    }

    const Linear& linear_;
    std::unique_ptr<float[]> columns_, buffer_;
    std::vector<float> zeros_;  // the rows that fill up a panel
    Row rows_[panel_width];
    bool is_mixed_ = false;
};

// Rounds panels as they come, straight into their places. scales: [panels][groups][panel_width].
class Quantizer {
  public:
    Quantizer(const Linear& linear, const FloatParts& weight, float* scales)
        : linear_(linear),
          weight_(weight),
          scales_(scales),
          is8_(has_8_bits(linear.kind)),
          piece_(is8_ ? std::min(linear.group, inputs_at_a_time) : linear.group),
          columns_(linear, std::min(piece_, linear.k)) {
        call_.bits = is8_ ? 8 : 4;
        call_.table = linear.table;
    }

    void run(Panels& panels) {
        for (int64_t panel; (panel = panels.next()) >= 0;) {
            columns_.take(weight_, panel);
            for (int64_t group = 0; group < linear_.groups(); ++group) round(panel, group);
        }
    }

  private:
    static constexpr int64_t inputs_at_a_time = 64;  // of 8 bits: they stay in the first cache

    void round(int64_t panel, int64_t group) {
        const int64_t begin = group * linear_.group, end = std::min(begin + linear_.group, linear_.k);
        const int64_t at = (panel * linear_.groups() + group) * panel_width;
        const int64_t per_word = is8_ ? 4 : 8, words = (linear_.k + per_word - 1) / per_word;
        uint32_t* to = reinterpret_cast<uint32_t*>(writable(linear_.data)) + panel * words * panel_width;
        call_.scales = scales_ + at;
        call_.zeros = linear_.zeros ? writable(linear_.zeros) + at : nullptr;
        if (is8_)
            for (int64_t lane = 0; lane < panel_width; ++lane)
                call_.scales[lane] = columns_.largest(lane, begin, end - begin) / 127.0f;
        for (int64_t i = begin; i < end; i += piece_) {
            columns_.fill(i, std::min(piece_, end - i), call_);
            call_.words = to + i / per_word * panel_width;
            quantize_(call_);
        }
    }

    const Linear& linear_;
    const FloatParts& weight_;
    float* const scales_;
    const bool is8_;
    const int64_t piece_;
    PanelColumns columns_;
    QuantizeCall call_{};
    void (*const quantize_)(const QuantizeCall&) = kernels().linear.quantize;
};

// scales in their layout → those of `linear`, in 16 or 32 bits.
void write_scales(const Linear& linear, const float* scales) {
    Team::get().run([&](const Slice& slice) {
        Range part = slice.part(linear.panels() * linear.groups() * panel_width);
        for (int64_t i = part.begin; i < part.end; ++i)
            if (linear.half_scales)
                writable(linear.half_scales)[i] = f16_of(scales[i]);
            else
                writable(linear.scales)[i] = scales[i];
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
    pack_scales(linear, codes);
    pack_bias(linear, bias);
    if (format.table) std::memcpy(writable(linear.table), format.table, 16 * sizeof(float));
    if (codes.permutation) std::memcpy(writable(linear.permutation), codes.permutation, sizes.permutation);
    return packed;
}

Packed quantize_linear(const IntFormat& format, const FloatParts& weight, int64_t n, int64_t k, bool has_zeros,
                       const float* bias, bool gated) {
    const int64_t group = group_of(format, k);
    // Rounding to 4 bits makes scales of 16 where these reach, so that their size is nearly always known before.
    bool are_halves = !has_8_bits(format.kind);
    BlobSizes sizes;
    auto allocate = [&] {
        sizes = int_sizes(format, n, k, has_zeros, bias != nullptr, gated, are_halves);
        Packed packed = new_blob(format.kind, n, k, group, gated, sizes);
        if (format.table) std::memcpy(writable(packed.linear.table), format.table, 16 * sizeof(float));
        return packed;
    };
    Packed packed = allocate();
    const int64_t num_scales = packed.linear.panels() * packed.linear.groups() * panel_width;
    const std::unique_ptr<float[]> scales(new float[static_cast<size_t>(num_scales)]);
    Panels panels(packed.linear);
    Team::get().run([&](const Slice&) { Quantizer(packed.linear, weight, scales.get()).run(panels); });
    if (fit_halves(scales.get(), num_scales) != are_halves) {
        are_halves = !are_halves;
        Packed other = allocate();
        std::memcpy(writable(other.linear.data), packed.linear.data, sizes.data);
        if (has_zeros) std::memcpy(writable(other.linear.zeros), packed.linear.zeros, sizes.zeros);
        packed = other;
    }
    write_scales(packed.linear, scales.get());
    pack_bias(packed.linear, bias);
    return packed;
}

size_t linear_scratch_bytes(const Linear& weight, int64_t rows) {
    constexpr int64_t most_rows = 16;  // of a tile; tiles are filled up to equal heights
    const int64_t inputs = (weight.k + 7) / 8 * 8;
    return static_cast<size_t>(rows + most_rows) * static_cast<size_t>(inputs + 2 * weight.groups()) * 4;
}

}  // namespace segue
