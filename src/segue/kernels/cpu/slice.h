// The share of a parallel region that one thread works on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace segue {

class Team;

struct Range {
    int64_t begin, end;
};

// Thread `index` of `count` in a region of `Team::run`.
struct Slice {
    int index = 0;
    int count = 1;
    Team* team = nullptr;  // null: a region of one thread

    // Waits until every thread of the region has come here.
    void barrier() const;

    // This thread's part of `total` pieces, in multiples of `grain` but for the last.
    __attribute__((always_inline)) Range part(int64_t total, int64_t grain = 1) const {
        int64_t grains = (total + grain - 1) / grain;
        int64_t begin = grains * index / count * grain, end = grains * (index + 1) / count * grain;
        return {begin < total ? begin : total, end < total ? end : total};
    }
};

}  // namespace segue
