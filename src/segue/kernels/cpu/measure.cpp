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

// Its slice of `num_bytes`, but for what is left over of 512.
void read_part(const std::byte* from, int64_t num_bytes, bool asks_ahead, const Slice& slice) {
    static std::atomic<uint32_t> total{0};  // else the compiler might leave reads out
    const Range part = slice.part(num_bytes / 512);
    const auto size = static_cast<size_t>(512 * (part.end - part.begin));
    total += kernels().linear.read_all(from + 512 * part.begin, size, asks_ahead);
}

}  // namespace

double measure_read_bandwidth(int64_t num_bytes, int repeats) {
    constexpr int64_t piece = int64_t{8} << 20;  // short beside the time slices of a busy machine
    const int64_t pieces = std::max<int64_t>(num_bytes / piece, 1);
    BlobSizes sizes;
    sizes.data = static_cast<size_t>(pieces * piece);
    Packed block = new_blob(WeightKind::f32, 1, 1, 0, false, sizes);
    // Untouched memory is one page of zeros, which stays in the nearest cache.
    std::memset(const_cast<std::byte*>(block.linear.data), 1, sizes.data);
    const std::byte* from = block.linear.data;
    bool asks_ahead = false;
    double seconds = best_seconds(repeats * static_cast<int>(pieces), [&] {
        Team::get().run([&](const Slice& slice) { read_part(from, piece, asks_ahead, slice); });
        asks_ahead = !asks_ahead;
        from += piece;
        if (from == block.linear.data + sizes.data) from = block.linear.data;
    });
    return static_cast<double>(piece) / seconds;
}

double measure_read_seconds(const std::vector<const Packed*>& layers) {
    const auto seconds = [&](bool asks_ahead) {
        return best_seconds(1, [&] {
            Team::get().run([&](const Slice& slice) {
                for (const Packed* layer : layers)
                    read_part(layer->bytes, static_cast<int64_t>(layer->num_bytes), asks_ahead, slice);
            });
        });
    };
    return std::min(seconds(false), seconds(true));
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
