// Bounds of this machine with the team's threads, for benchmarks.
#pragma once

#include <cstdint>

namespace segue {

// Bytes a second read from `num_bytes` of memory, piece by piece: the best piece of some repeats.
double measure_read_bandwidth(int64_t num_bytes, int repeats);

// Multiply-adds a second of float32, or of int8 by the best instructions of this processor, on cached data.
double measure_multiplications(bool integers, int repeats);

}  // namespace segue
