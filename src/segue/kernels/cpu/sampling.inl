#include "isa.h"
#include "sampling.h"
#include "vector_math.inl"

namespace segue::SEGUE_ISA {

// exp(-64) * 2^62 is below 1.
constexpr float lowest_exponent = -64.0f;

static void maxima(const float* x, int64_t count, float* largest) {
    constexpr float none = -__builtin_inff();
    for (int64_t begin = 0; begin < count; begin += logit_chunk, ++largest) {
        int64_t end = begin + logit_chunk < count ? begin + logit_chunk : count;
        f32xr most = all(none), differences{};
        int64_t i = begin;
        for (; i + register_lanes <= end; i += register_lanes) {
            f32xr part = load<f32xr>(x + i);
            most = max(part, most);
            differences += part != part ? part : f32xr{};  // NaN if one is
        }
        float found = max_of(most), nan = sum_of(differences);
        for (; i < end; ++i) {
            found = x[i] > found ? x[i] : found;
            nan += x[i] != x[i] ? x[i] : 0.0f;
        }
        *largest = nan != nan ? nan : found;
    }
}

SEGUE_INLINE f32xr scaled_masses(f32xr x, float peak, float unit) {
    return exp_of_nonpositive(max(x - peak, all(lowest_exponent))) * unit;
}

SEGUE_INLINE f32xr load_or_lowest(const float* from, int64_t count) {
    if (count >= register_lanes) return load<f32xr>(from);
    float whole[register_lanes];
    for (int i = 0; i < register_lanes; ++i) whole[i] = i < count ? from[i] : -__builtin_inff();
    return load<f32xr>(whole);
}

SEGUE_INLINE float peak_of(const float* x, int64_t count) {
    f32xr most[4] = {all(-__builtin_inff()), all(-__builtin_inff()), all(-__builtin_inff()), all(-__builtin_inff())};
    int64_t i = 0;
    for (; i + 4 * register_lanes <= count; i += 4 * register_lanes)
        for (int j = 0; j < 4; ++j) most[j] = max(load<f32xr>(x + i + j * register_lanes), most[j]);
    for (; i < count; i += register_lanes) most[0] = max(load_or_lowest(x + i, count - i), most[0]);
    return max_of(max(max(most[0], most[1]), max(most[2], most[3])));
}

// NaN where one is, and where one is infinite.
SEGUE_INLINE float sum_below(const float* x, int64_t count, float peak) {
    auto one = [&](f32xr part) { return exp_of_normal_result(max(all(lowest_exponent), part - peak)); };
    f32xr sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * register_lanes <= count; i += 4 * register_lanes)
        for (int j = 0; j < 4; ++j) sums[j] += one(load<f32xr>(x + i + j * register_lanes));
    for (; i < count; i += register_lanes) sums[0] += one(load_or_lowest(x + i, count - i));
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static Sum sum(const float* x, int64_t count) {
    constexpr float lowest = -3.402823466e38f;  // what -inf is seen from: it must not give NaN
    Sum found{-__builtin_inff(), 0.0, 0};
    for (int64_t begin = 0; begin < count; begin += peak_block) {
        int64_t size = begin + peak_block < count ? peak_block : count - begin;
        float peak = peak_of(x + begin, size);
        if (peak > found.peak) {
            found = {peak, found.sum * exp_of_nonpositive(all(found.peak - peak))[0], begin};
        }
        found.sum += sum_below(x + begin, size, found.peak > lowest ? found.peak : lowest);
    }
    return found;
}

static void masses(const float* x, int64_t count, float peak, float unit, int64_t* masses) {
    for (int64_t i = 0; i < count; i += register_lanes) {
        float part[register_lanes];
        store(part, scaled_masses(load_first<f32xr>(x + i, count - i), peak, unit));
        for (int64_t lane = 0; lane < register_lanes && i + lane < count; ++lane)
            masses[i + lane] = static_cast<int64_t>(part[lane]);
    }
}

static void mass_sums(const float* x, int64_t count, float peak, float unit, int64_t* sums) {
    for (int64_t begin = 0; begin < count; begin += logit_chunk, ++sums) {
        float part[logit_chunk] = {};
        int64_t size = begin + logit_chunk < count ? logit_chunk : count - begin;
        for (int64_t i = 0; i < size; i += register_lanes)
            store(part + i, scaled_masses(load_first<f32xr>(x + begin + i, size - i), peak, unit));
        int64_t sum = 0;
        if (size == logit_chunk) {
            for (int64_t i = 0; i < logit_chunk; ++i) sum += static_cast<int64_t>(part[i]);
        } else {
            for (int64_t i = 0; i < size; ++i) sum += static_cast<int64_t>(part[i]);
        }
        *sums = sum;
    }
}

static void drop_below(float* x, int64_t count, float least) {
    for (int64_t i = 0; i < count; i += register_lanes) {
        f32xr part = load_first<f32xr>(x + i, count - i);
        store_first(x + i, part < least ? all(-__builtin_inff()) : part, count - i);
    }
}

static constexpr SamplingKernels sampling_kernels = {sum, maxima, masses, mass_sums, drop_below};

}  // namespace segue::SEGUE_ISA
