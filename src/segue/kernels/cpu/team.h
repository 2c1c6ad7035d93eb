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
        run_erased([](const void* given, const Slice& slice) { (*static_cast<const Body*>(given))(slice); }, &body);
    }

    void barrier();

  private:
    using Erased = void (*)(const void*, const Slice&);

    void run_erased(Erased function, const void* body);
    void work(int index, int processor, uint64_t seen);
    void start(int size, bool pinned);
    void stop();

    std::mutex turn_;  // held for the length of a call
    std::vector<std::thread> workers_;
    std::unique_ptr<Share[]> shares_;  // [size()]
    std::vector<int> bound_;  // the processors that workers are bound to
    Erased function_ = nullptr;
    const void* body_ = nullptr;
    bool stopping_ = false;

    alignas(64) std::atomic<uint64_t> generation_{0};  // grows with every call
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint64_t> phase_{0};  // grows with every barrier passed
    alignas(64) std::atomic<int> sleepers_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
};

}  // namespace segue
