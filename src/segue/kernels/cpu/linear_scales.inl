// What integer codes are multiplied by.
#pragma once

#include "linear.h"
#include "native.inl"

namespace segue::SEGUE_ISA {

// One panel's scales and zeros.
struct GroupScales {
    const float* scales;
    const uint16_t* half_scales;
    const uint8_t* zeros;

    // Of the outputs from `at` on; at = group * panel_width + column.
    inline fnative scale(int64_t at) const {
        return half_scales ? native_of_f16(half_scales + at) : load<fnative>(scales + at);
    }

    inline fnative zero(int64_t at) const {
        return __builtin_convertvector(__builtin_convertvector(load<bnative>(zeros + at), inative), fnative);
    }
};

static inline GroupScales group_scales(const Linear& weight, int64_t panel) {
    int64_t offset = panel * weight.groups() * panel_width;
    return {weight.scales ? weight.scales + offset : nullptr,
            weight.half_scales ? weight.half_scales + offset : nullptr, weight.zeros ? weight.zeros + offset : nullptr};
}

}  // namespace segue::SEGUE_ISA
