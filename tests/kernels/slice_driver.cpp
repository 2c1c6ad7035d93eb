// Threads that share out loops of a few pieces, most of them without a barrier between: every piece must be done once.
// Counts of loops begin shortly before they come again from 0.
#include <cstdio>
#include <thread>
#include <vector>

#include "slice.h"

namespace segue {
class Team {};
void Slice::barrier() const {}
}  // namespace segue

namespace {

constexpr int num_threads = 4, num_loops = 30000, loops_a_barrier = 3, most_pieces = 13;

std::atomic<int> done[loops_a_barrier][most_pieces];
std::atomic<long> arrived{0};

int pieces_of(int loop) { return loop % 5 == 0 ? 0 : loop % 11 == 0 ? 1 : loop * 7 % most_pieces; }

void wait_for_all(long& passed) {
    passed += num_threads;
    arrived.fetch_add(1);
    while (arrived.load() < passed) std::this_thread::yield();
}

int num_wrong(int first_loop) {
    int wrong = 0;
    for (int i = 0; i < loops_a_barrier; ++i)
        for (int piece = 0; piece < most_pieces; ++piece)
            wrong += done[i][piece].exchange(0) != (piece < pieces_of(first_loop + i));
    return wrong;
}

}  // namespace

int main() {
    segue::Team team;
    segue::Share shares[num_threads];
    for (segue::Share& share : shares) {
        share.loop = segue::Share::loops - 1000;
        share.taken = share.loop << 2 * segue::Share::bits;
    }
    int wrong = 0;
    std::vector<std::thread> threads;
    for (int index = 0; index < num_threads; ++index)
        threads.emplace_back([&, index] {
            const segue::Slice slice{index, num_threads, &team, shares};
            long passed = 0;
            for (int first = 0; first < num_loops; first += loops_a_barrier) {
                for (int i = 0; i < loops_a_barrier; ++i)
                    slice.each(pieces_of(first + i), [&](int64_t piece) { done[i][piece].fetch_add(1); });
                wait_for_all(passed);
                if (index == 0) wrong += num_wrong(first);
                wait_for_all(passed);
            }
        });
    for (std::thread& thread : threads) thread.join();
    std::printf("%d\n", wrong);
    return wrong != 0;
}
