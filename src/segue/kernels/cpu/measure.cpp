#include "measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "blob.h"
#include "kernels.h"
#include "team.h"

namespace segue {
namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Body>
double best_seconds(int repeats, const Body& body) {
    double best = 0;
    for (int i = 0; i < repeats; ++i) {
        double started = now();
        body();
        double took = now() - started;
        if (i == 0 || took < best) best = took;
    }
    return best;
}

}  // namespace

double measure_read_bandwidth(int64_t num_bytes, int repeats) {
    constexpr int64_t piece = int64_t{8} << 20;  // short beside the time slices of a busy machine
    const LinearKernels& functions = kernels().linear;
    const int64_t pieces = std::max<int64_t>(num_bytes / piece, 1);
    BlobSizes sizes;
    sizes.data = static_cast<size_t>(pieces * piece);
    Packed block = new_blob(WeightKind::f32, 1, 1, 0, false, sizes);
    // Untouched memory is one page of zeros, which stays in the nearest cache.
    std::memset(const_cast<std::byte*>(block.linear.data), 1, sizes.data);
    std::atomic<uint32_t> total{0};
    const std::byte* from = block.linear.data;
    double seconds = best_seconds(repeats * static_cast<int>(pieces), [&] {
        Team::get().run([&](const Slice& slice) {
            Range part = slice.part(piece, 512);
            total += functions.read_all(from + part.begin, static_cast<size_t>(part.end - part.begin));
        });
        from += piece;
        if (from == block.linear.data + sizes.data) from = block.linear.data;
    });
    return static_cast<double>(piece) / seconds;
}

double measure_multiplications(bool integers, int repeats) {
    const LinearKernels& functions = kernels().linear;
    std::atomic<int64_t> done{0};
    int runs = 0;
    double seconds = best_seconds(repeats, [&] {
        ++runs;
        Team::get().run([&](const Slice&) { done += functions.multiply_cached(integers, 100); });
    });
    return static_cast<double>(done.load()) / runs / seconds;
}

}  // namespace segue
