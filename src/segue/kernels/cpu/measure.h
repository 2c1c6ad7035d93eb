// Bounds of this machine with the team's threads, for benchmarks.
#pragma once

#include <cstdint>
#include <vector>

#include "pack.h"

namespace segue {

// Bytes a second read from `num_bytes` of memory, piece by piece: the best piece of some repeats, with the processor's own
// prefetching alone or with lines asked for ahead.
double measure_read_bandwidth(int64_t num_bytes, int repeats);

// Seconds that reading all bytes of `layers` once takes, in their order, in the better of those two ways: what a step of
// one stream cannot be faster than.
double measure_read_seconds(const std::vector<const Packed*>& layers);

// Multiply-adds a second of float32, or of int8 by the best instructions of this processor, on cached data.
double measure_multiplications(bool integers, int repeats);

}  // namespace segue
