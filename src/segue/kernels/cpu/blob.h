// The block of memory of a packed weight: a header, then its arrays, each at a multiple of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "pack.h"

namespace segue {

struct BlobSizes {
    size_t data = 0, scales = 0, half_scales = 0, zeros = 0, table = 0, bias = 0, permutation = 0;
};

struct BlobHeader {
    char magic[8];
    uint32_t version;
    uint8_t kind, gated, unused[2];
    int64_t n, k, group;
    BlobSizes sizes;
    uint64_t num_bytes;
    char fill[24];
};
static_assert(sizeof(BlobHeader) == 128, "arrays follow at a multiple of 64");

// A new block, zeroed; the arrays of its `linear` are to be filled in. Throws std::bad_alloc.
Packed new_blob(WeightKind kind, int64_t n, int64_t k, int64_t group, bool gated, const BlobSizes& sizes);

template <class T>
T* writable(const T* array) {
    return const_cast<T*>(array);
}

}  // namespace segue
