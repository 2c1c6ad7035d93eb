// What packing floats and packing integers share: rows of a weight to panels of a packed one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>

#include "blob.h"
#include "float16.h"
#include "pack.h"

namespace segue {

struct Row {
    const std::byte* data;
    WeightKind kind;
};

inline size_t size_of(WeightKind kind) { return kind == WeightKind::f32 ? 4 : 2; }

inline Row row_in(const FloatParts& parts, int64_t row) {
    const FloatMatrix* part = parts.data();
    for (; row >= part->rows; ++part) row -= part->rows;
    return {static_cast<const std::byte*>(part->data) + static_cast<size_t>(row * part->stride) * size_of(part->kind),
            part->kind};
}

// The row of the unpacked weight that `lane` of `panel` is; -1: none, it is filled up.
inline int64_t row_of(const Linear& linear, int64_t panel, int64_t lane) {
    int64_t width = linear.panel_outputs(), output = panel * width + lane % width;
    if (output >= linear.outputs()) return -1;
    return lane < width ? output : output + linear.outputs();
}

// `count` floats of a row, from `begin` on. Floats of 16 bits come at most 16 at a time.
inline void read_floats(const Row& row, int64_t begin, int64_t count, float* to) {
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

// How far ahead of their use rows are fetched: processors follow fewer streams than a panel has rows.
constexpr size_t prefetch_bytes = 512;

// Eight rows of eight halves to columns, by words of 2, 4 and 8 bytes: a copy number by number took four times as long.
inline void transpose_halves(const std::byte* const* rows, size_t at, uint16_t* to) {
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
inline void transpose_words(const std::byte* const* rows, size_t at, uint32_t* to) {
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

// A weight's panels, each for one thread. They take the next as they come: other processes, or pages that are still to
// be read, hold up one and not the other.
class Panels {
  public:
    explicit Panels(const Linear& linear) : count_(linear.panels()) {}

    int64_t next() {
        int64_t panel = next_.fetch_add(1, std::memory_order_relaxed);
        return panel < count_ ? panel : -1;
    }

  private:
    const int64_t count_;
    std::atomic<int64_t> next_{0};
};

inline size_t padded_outputs(int64_t n, bool gated) {
    Linear shape{};
    shape.n = n;
    shape.gated = gated;
    return static_cast<size_t>(shape.panels() * panel_width);
}

inline void pack_bias(const Linear& linear, const float* bias) {
    if (bias == nullptr) return;
    for (int64_t i = 0; i < linear.panels() * panel_width; ++i) {
        int64_t row = row_of(linear, i / panel_width, i % panel_width);
        if (row >= 0) writable(linear.bias)[i] = bias[row];
    }
}

}  // namespace segue
