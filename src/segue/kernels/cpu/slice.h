// The share of a parallel region that one thread works on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace segue {

class Team;

struct Range {
    int64_t begin, end;
};

// What a thread has left of its part of a loop: how many pieces were taken from the front, by itself, and from the back,
// by others.
struct alignas(64) Share {
    std::atomic<uint64_t> taken{0};  // loop << 40 | front << 20 | back
    uint64_t loop = 0;               // of this thread, which only itself reads

    static constexpr int bits = 20;
    static constexpr uint64_t mask = (uint64_t{1} << bits) - 1, loops = (uint64_t{1} << 24) - 1;

    __attribute__((always_inline)) static bool is_before(uint64_t seen, uint64_t now) {
        return (((seen >> 2 * bits) - now) & loops) > loops / 2;
    }

    // The number of this thread's next loop. It is written down in any case: numbers come again.
    __attribute__((always_inline)) uint64_t begin() {
        const uint64_t now = ++loop & loops;
        uint64_t seen = taken.load(std::memory_order_relaxed);
        while (is_before(seen, now))  // another thread may be in it, or in the one after
            if (taken.compare_exchange_weak(seen, now << 2 * bits, std::memory_order_relaxed)) break;
        return now;
    }

    // Takes one of `size` pieces of loop `now`; how many were taken at that end before, or -1 where none is left.
    __attribute__((always_inline)) int64_t take(uint64_t now, int64_t size, bool from_front) {
        uint64_t seen = taken.load(std::memory_order_relaxed);
        while (true) {
            const bool is_new = is_before(seen, now);
            // A thread goes on to the next loop when nothing is left of this one.
            if (!is_new && seen >> 2 * bits != now) return -1;
            const uint64_t counts = is_new ? 0 : seen & (mask << bits | mask);
            const uint64_t front = counts >> bits, back = counts & mask;
            if (static_cast<int64_t>(front + back) >= size) return -1;
            const uint64_t next = now << 2 * bits | (counts + (from_front ? mask + 1 : 1));
            if (taken.compare_exchange_weak(seen, next, std::memory_order_relaxed))
                return static_cast<int64_t>(from_front ? front : back);
        }
    }
};

// Thread `index` of `count` in a region of `Team::run`.
struct Slice {
    int index = 0;
    int count = 1;
    Team* team = nullptr;  // null: a region of one thread
    Share* shares = nullptr;  // [count], where there is a team

    // Waits until every thread of the region has come here.
    void barrier() const;

    // do_piece(i) of every i in [0, total), once: each thread does its part from the front, then what is left of the
    // others' from the back. A thread that has lost its processor for a while thereby costs its share of that while, not
    // all of it. All threads of a region call this equally often. total: less than 2^20 a thread.
    template <class DoPiece>
    __attribute__((always_inline)) void each(int64_t total, const DoPiece& do_piece) const {
        if (team == nullptr) {
            for (int64_t i = 0; i < total; ++i) do_piece(i);
            return;
        }
        const uint64_t now = shares[index].begin();
        for (int i = 0; i < count; ++i) {
            Slice owner = *this;
            owner.index = (index + i) % count;
            const Range part = owner.part(total);
            for (int64_t taken; (taken = shares[owner.index].take(now, part.end - part.begin, i == 0)) >= 0;)
                do_piece(i == 0 ? part.begin + taken : part.end - 1 - taken);
        }
    }

    // This thread's part of `total` pieces, in multiples of `grain` but for the last.
    __attribute__((always_inline)) Range part(int64_t total, int64_t grain = 1) const {
        int64_t grains = (total + grain - 1) / grain;
        int64_t begin = grains * index / count * grain, end = grains * (index + 1) / count * grain;
        return {begin < total ? begin : total, end < total ? end : total};
    }
};

}  // namespace segue
