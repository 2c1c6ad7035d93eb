// 16-bit floats and 32-bit ones, number by number, rounded to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

namespace segue {

inline float float_of_bf16(uint16_t bits16) {
    uint32_t bits = static_cast<uint32_t>(bits16) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline float float_of_f16(uint16_t h) {
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

inline uint16_t bf16_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline uint16_t f16_of(float x) {
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

}  // namespace segue
