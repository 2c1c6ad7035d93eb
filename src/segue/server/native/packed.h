// Reading MessagePack, as far as the engine's steps need it (https://github.com/msgpack/msgpack/blob/master/spec.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace segue {

// What follows is not what the engine writes.
struct Malformed : std::runtime_error {
    Malformed() : std::runtime_error("not a step of the engine") {}
};

// A place in packed values. Every read checks what is left, and throws Malformed.
class Packed {
  public:
    Packed(const uint8_t* begin, const uint8_t* end) : at_(begin), end_(end) {}

    const uint8_t* at() const { return at_; }

    bool is_at_end() const { return at_ == end_; }

    size_t array() {
        const uint8_t tag = byte();
        size_t size;
        if ((tag & 0xf0) == 0x90) size = tag & 0x0f;
        else if (tag == 0xdc) size = big_endian(2);
        else if (tag == 0xdd) size = big_endian(4);
        else throw Malformed();
        require(size);  // no value takes less than a byte: nobody makes room for what cannot come
        return size;
    }

    // Of a number that is not negative.
    uint64_t integer() {
        const uint8_t tag = byte();
        if (tag < 0x80) return tag;
        if (tag >= 0xcc && tag <= 0xcf) return big_endian(size_t{1} << (tag - 0xcc));
        throw Malformed();
    }

    double number() {
        if (byte() != 0xcb) throw Malformed();
        const uint64_t bits = big_endian(8);
        double value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }

    // Goes over the next value. Whether it was nil.
    bool skip() {
        const bool is_nil = at_ < end_ && *at_ == 0xc0;
        for (size_t left = 1; left > 0; --left) left += skip_one();
        return is_nil;
    }

  private:
    uint8_t byte() {
        require(1);
        return *at_++;
    }

    void require(size_t size) const {
        if (static_cast<size_t>(end_ - at_) < size) throw Malformed();
    }

    uint64_t big_endian(size_t size) {
        require(size);
        uint64_t value = 0;
        for (size_t i = 0; i < size; ++i) value = value << 8 | *at_++;
        return value;
    }

    void pass(size_t size) {
        require(size);
        at_ += size;
    }

    // The number of values inside that are to be skipped too.
    size_t skip_one() {
        const uint8_t tag = byte();
        if (tag < 0x80 || tag >= 0xe0) return 0;
        if (tag < 0x90) return 2 * size_t{tag & 0x0fu};
        if (tag < 0xa0) return tag & 0x0fu;
        if (tag < 0xc0) return pass(tag & 0x1fu), 0;
        switch (tag) {
            case 0xc0: case 0xc2: case 0xc3: return 0;
            case 0xc4: case 0xd9: return pass(big_endian(1)), 0;
            case 0xc5: case 0xda: return pass(big_endian(2)), 0;
            case 0xc6: case 0xdb: return pass(big_endian(4)), 0;
            case 0xcc: case 0xd0: return pass(1), 0;
            case 0xcd: case 0xd1: return pass(2), 0;
            case 0xca: case 0xce: case 0xd2: return pass(4), 0;
            case 0xcb: case 0xcf: case 0xd3: return pass(8), 0;
            case 0xdc: return big_endian(2);
            case 0xdd: return big_endian(4);
            case 0xde: return 2 * big_endian(2);
            case 0xdf: return 2 * big_endian(4);
        }
        throw Malformed();
    }

    const uint8_t* at_;
    const uint8_t* end_;
};

}  // namespace segue
