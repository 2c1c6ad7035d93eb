#include "float16.h"
#include "pack.h"
#include "panels.h"
#include "team.h"

namespace segue {
namespace {

template <class T, class Convert>
void write_transposed(const float (*block)[16], int64_t count, std::byte* to, Convert convert) {
    T* out = reinterpret_cast<T*>(to);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < panel_width; ++j) out[i * panel_width + j] = convert(block[j][i]);
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

}  // namespace

Packed pack_float(WeightKind kind, const FloatParts& weight, int64_t n, int64_t k, const float* bias, bool gated) {
    size_t outputs = padded_outputs(n, gated);
    BlobSizes sizes;
    sizes.data = outputs * static_cast<size_t>(k) * size_of(kind);
    sizes.bias = bias ? outputs * sizeof(float) : 0;
    Packed packed = new_blob(kind, n, k, 0, gated, sizes);
    Panels panels(packed.linear);
    Team::get().run([&](const Slice&) {
        for (int64_t panel; (panel = panels.next()) >= 0;) pack_float_panel(packed.linear, weight, panel);
    });
    pack_bias(packed.linear, bias);
    return packed;
}

}  // namespace segue
