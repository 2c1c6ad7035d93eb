// A team of threads that run one function together: the caller is thread 0, the others spin briefly for the next call
// and then sleep, so that an idle server uses no processor.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "slice.h"

namespace segue {

class Team;

// One thread's way through the turns of a region, each a piece of work with a barrier behind it. The caller begins alone
// and goes on alone, without barriers, until all workers are there: one whose processor another process has taken is not
// waited for. From then on all take part in each turn. A worker whose processor is taken in the middle of a turn holds up
// the caller; where it is the only one it then leaves, lets others have its processor for as long as they want it, and
// joins again: a server that takes in requests for 10 ms costs that once what it cost in each of its slices of 3 ms.
class Turns {
  public:
    // Of thread `index`; workers join at turn `first`.
    Turns(Team& team, int index, uint64_t first);

    // This thread's slice of the next turn, null where it is the caller's alone. Every thread asks once a turn.
    const Slice* next();

    // Of a worker: whether it has left before the end.
    bool has_left() const { return has_left_; }

  private:
    const Slice* next_of_worker(uint64_t turn);

    Team& team_;
    uint64_t turn_ = 0, first_;
    bool is_worker_, is_joined_ = false, has_left_ = false;
    Slice alone_, together_;
};

class Team {
  public:
    // One for the process; the first call after `resize` starts its threads. Not to be used after a fork.
    static Team& get();

    explicit Team(int size);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // `num_threads` in all, each worker bound to a processor of its own where `pinned`, off which callers keep while a call
    // runs. Waits for running calls.
    void resize(int num_threads, bool pinned);

    // Runs `body(slice)` on every thread; returns when all are done. One call at a time; others wait for their turn.
    template <class Body>
    void run(const Body& body) {
        run_erased([](const void* given, Team& team, int index, uint64_t) {
            (*static_cast<const Body*>(given))(team.slice(index));
            return false;
        }, &body, true);
    }

    // Runs `body(turns)` on every thread that comes in time, in any case on the caller's.
    template <class Body>
    void run_turns(const Body& body) {
        run_erased([](const void* given, Team& team, int index, uint64_t first) {
            Turns turns(team, index, first);
            (*static_cast<const Body*>(given))(turns);
            return turns.has_left();
        }, &body, false);
    }

    void barrier(int index);

  private:
    friend class Turns;
    // Returns whether this thread has left before the end.
    using Erased = bool (*)(const void* body, Team& team, int index, uint64_t first_turn);

    // The last generation that a worker has seen.
    struct alignas(64) Ready {
        std::atomic<uint64_t> generation{0};
    };

    Slice slice(int index) { return workers_.empty() ? Slice{} : Slice{index, size(), this, shares_.get()}; }
    bool all_are_ready() const;
    void let_join(uint64_t turn);
    void let_leave();
    void wake_sleepers();
    void run_erased(Erased function, const void* body, bool waits_for_all);
    void work(int index, int processor, uint64_t seen);
    void start(int size, bool pinned);
    void stop();

    std::mutex turn_;  // held for the length of a call
    std::vector<std::thread> workers_;
    std::unique_ptr<Share[]> shares_;  // [size()]
    std::unique_ptr<Ready[]> ready_;   // [size()], the caller's unused
    std::vector<int> bound_;  // the processors that workers are bound to
    Erased function_ = nullptr;
    const void* body_ = nullptr;
    bool stopping_ = false;

    static constexpr int turn_bits = 24;

    alignas(64) std::atomic<uint64_t> generation_{0};  // grows with every call
    std::atomic<uint64_t> joined_{0};  // generation << turn_bits | turn from which workers take part in it
    bool has_joined_ = false;          // workers take part in the present call
    bool was_held_up_ = false;         // the caller, in a barrier since it last asked
    std::atomic<uint64_t> leave_at_{0};  // the turn at which workers leave; 0: none
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint64_t> phase_{0};  // grows with every barrier passed
    alignas(64) std::atomic<int> sleepers_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
};

}  // namespace segue
