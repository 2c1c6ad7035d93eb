// Regions whose workers come late: every piece of every turn must be done once, whoever is there. Other threads take the
// processors, as servers do, and the gaps between regions make workers spin, sleep and miss whole regions. Prints the
// number of pieces that were not done once.
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "team.h"

using namespace segue;

namespace {

constexpr int most_turns = 12, most_pieces = 40;
std::atomic<bool> is_over{false};

void burn() {
    std::mt19937 random(7);
    while (!is_over) {
        volatile unsigned sum = 0;
        for (unsigned i = 0; i < 200000 + random() % 2000000; ++i) sum = sum + i;
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
}

struct Region {
    int turns, spins;
    int64_t pieces[most_turns];
    std::atomic<int> done[most_turns][most_pieces];

    void run(Turns& turns_of_thread) {
        for (int turn = 0; turn < turns; ++turn) {
            const Slice* slice = turns_of_thread.next();
            if (slice == nullptr) continue;
            slice->each(pieces[turn], [&](int64_t i) {
                for (volatile int spin = 0; spin < spins; spin = spin + 1) {}
                ++done[turn][i];
            });
            const Range part = slice->part(pieces[turn]);
            for (int64_t i = part.begin; i < part.end; ++i) done[turn][i] += 10;
            slice->barrier();
            // Behind the barrier all of the turn is done.
            for (int64_t i = 0; i < pieces[turn]; ++i)
                if (done[turn][i] != 11) done[turn][i] += 100;
        }
    }
};

}  // namespace

int main() {
    std::mt19937 random(1);
    Team team(2);
    std::vector<std::thread> others;
    for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i) others.emplace_back(burn);
    auto region = std::make_unique<Region>();
    int64_t num_wrong = 0;
    for (int round = 0; round < 1200; ++round) {
        region->turns = 1 + static_cast<int>(random() % most_turns);
        region->spins = round % 8 == 0 ? 60000 : 300;  // long enough to lose the processor in a piece: workers leave
        for (int turn = 0; turn < region->turns; ++turn) {
            region->pieces[turn] = random() % most_pieces;
            for (auto& each : region->done[turn]) each = 0;
        }
        if (round % 5 == 0) {  // a region that waits for all
            team.run([&](const Slice& slice) {
                slice.each(region->pieces[0], [&](int64_t i) { ++region->done[0][i]; });
            });
            for (int64_t i = 0; i < region->pieces[0]; ++i) num_wrong += region->done[0][i].exchange(0) != 1;
        }
        team.run_turns([&](Turns& turns) { region->run(turns); });
        for (int turn = 0; turn < region->turns; ++turn)
            for (int64_t i = 0; i < region->pieces[turn]; ++i) num_wrong += region->done[turn][i] != 11;
        if (round % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 400));
        if (round % 300 == 299) team.resize(std::array{3, 2, 1, 4}[round / 300], false);
    }
    is_over = true;
    for (std::thread& each : others) each.join();
    std::printf("%lld\n", static_cast<long long>(num_wrong));
    return num_wrong != 0;
}
