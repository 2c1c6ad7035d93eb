#include "team.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace segue {
namespace {

// About 50 us: longer than the gap between two steps of a busy server, short beside a request.
constexpr int spins_before_sleep = 20000;
// A partner that has lost its processor will not come by spinning: give this one up now and then.
constexpr int spins_before_yield = 4000;
// About 1 us: workers that run answer in less.
constexpr int spins_before_alone = 400;
// Some hundred us: no piece is as long.
constexpr int spins_held_up = 5 * spins_before_yield;
// A thread that gave up its processor for longer has another one waiting for it.
constexpr auto least_slice = std::chrono::microseconds(20);
constexpr int most_slices = 10;

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Until nobody else wants this processor, at most for some slices of the system's.
void give_way() {
    using Clock = std::chrono::steady_clock;
    for (int i = 0; i < most_slices; ++i) {
        const Clock::time_point before = Clock::now();
        sched_yield();
        if (Clock::now() - before < least_slice) return;
    }
}

void bind_to(int processor) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // refused: it runs unbound
#else
    (void)processor;
#endif
}

// The processors that this process may use.
std::vector<int> allowed_processors() {
    std::vector<int> found;
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE; ++i)
            if (CPU_ISSET(i, &set)) found.push_back(i);
#endif
    return found;
}

// While it lives, the calling thread keeps off the processors that workers are bound to. The system finds it the right
// one by itself nearly always; where it does not, both halves of a team share one processor for seconds.
class KeptOff {
  public:
    explicit KeptOff(const std::vector<int>& workers) {
#if defined(__linux__)
        int here = sched_getcpu();
        for (int each : workers) moves_ |= each == here;
        if (!moves_ || pthread_getaffinity_np(pthread_self(), sizeof before_, &before_) != 0) return;
        cpu_set_t rest = before_;
        for (int each : workers) CPU_CLR(each, &rest);
        moves_ = CPU_COUNT(&rest) > 0 && pthread_setaffinity_np(pthread_self(), sizeof rest, &rest) == 0;
#else
        (void)workers;
#endif
    }

    ~KeptOff() {
#if defined(__linux__)
        // Threads that the caller starts later inherit what it may use.
        if (moves_) pthread_setaffinity_np(pthread_self(), sizeof before_, &before_);
#endif
    }

    KeptOff(const KeptOff&) = delete;
    KeptOff& operator=(const KeptOff&) = delete;

  private:
    bool moves_ = false;
#if defined(__linux__)
    cpu_set_t before_;
#endif
};

}  // namespace

void Slice::barrier() const {
    if (team != nullptr) team->barrier(index);
}

Turns::Turns(Team& team, int index, uint64_t first)
    : team_(team), first_(first), is_worker_(index > 0), together_(team.slice(index)) {
    if (is_worker_ || together_.team == nullptr) return;
    for (int spins = 0; spins < spins_before_alone && !team_.all_are_ready(); ++spins) relax();
}

const Slice* Turns::next() {
    const uint64_t turn = turn_++;
    if (is_worker_) return next_of_worker(turn);
    if (together_.team == nullptr) return &alone_;
    if (is_joined_ && team_.leave_at_.load(std::memory_order_relaxed) == turn) {
        team_.let_leave();
        is_joined_ = false;
    } else if (is_joined_ && team_.was_held_up_ && team_.size() == 2) {
        // Workers are past the last barrier, so they see this behind the next one.
        team_.leave_at_.store(turn + 1, std::memory_order_relaxed);
    }
    team_.was_held_up_ = false;
    if (is_joined_) return &together_;
    if (!team_.all_are_ready()) return &alone_;
    team_.let_join(turn);
    is_joined_ = true;
    return &together_;
}

const Slice* Turns::next_of_worker(uint64_t turn) {
    if (turn < first_ || has_left_) return nullptr;
    has_left_ = turn > first_ && team_.leave_at_.load(std::memory_order_relaxed) == turn;
    return has_left_ ? nullptr : &together_;
}

Team& Team::get() {
    static Team* team = new Team(1);  // never destroyed: its threads may outlive static destructors
    return *team;
}

Team::Team(int size) { start(size, false); }

Team::~Team() { stop(); }

void Team::resize(int num_threads, bool pinned) {
    std::lock_guard<std::mutex> turn(turn_);
    stop();
    start(num_threads, pinned);
}

void Team::start(int size, bool pinned) {
    stopping_ = false;
    std::vector<int> processors = pinned ? allowed_processors() : std::vector<int>();
    uint64_t seen = generation_.load(std::memory_order_relaxed);
    bool enough = static_cast<int>(processors.size()) >= size;
    shares_.reset(new Share[static_cast<size_t>(size)]);
    ready_.reset(new Ready[static_cast<size_t>(size)]);
    bound_.clear();
    for (int i = 1; i < size; ++i) {
        int processor = enough ? processors[processors.size() - static_cast<size_t>(i)] : -1;
        if (enough) bound_.push_back(processor);
        workers_.emplace_back([this, i, processor, seen] { work(i, processor, seen); });
    }
}

void Team::stop() {
    stopping_ = true;
    generation_.fetch_add(1, std::memory_order_seq_cst);
    let_join(0);
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
}

bool Team::all_are_ready() const {
    const uint64_t now = generation_.load(std::memory_order_relaxed);
    for (int i = 1; i < size(); ++i)
        if (ready_[static_cast<size_t>(i)].generation.load(std::memory_order_acquire) != now) return false;
    return true;
}

// The workers of this generation begin, those that are ready now and those that come later.
void Team::let_join(uint64_t turn) {
    has_joined_ = true;
    joined_.store(generation_.load(std::memory_order_relaxed) << turn_bits | turn, std::memory_order_seq_cst);
    wake_sleepers();
}

// Workers leave the present call, in which they may take part again as if it were another one.
void Team::let_leave() {
    barrier(0);
    has_joined_ = false;
    leave_at_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_seq_cst);
}

void Team::wake_sleepers() {
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    std::lock_guard<std::mutex> lock(sleep_);
    wake_.notify_all();
}

void Team::run_erased(Erased function, const void* body, bool waits_for_all) {
    std::lock_guard<std::mutex> turn(turn_);
    if (workers_.empty()) return void(function(body, *this, 0, 0));
    KeptOff kept(bound_);
    function_ = function;
    body_ = body;
    has_joined_ = was_held_up_ = false;
    leave_at_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    if (waits_for_all)
        let_join(0);
    else
        wake_sleepers();
    function(body, *this, 0, 0);
    if (has_joined_) barrier(0);
}

void Team::work(int index, int processor, uint64_t done) {
    if (processor >= 0) bind_to(processor);
    std::atomic<uint64_t>& ready = ready_[static_cast<size_t>(index)].generation;
    // `function_` and `body_` are there from the moment in which all may join until this thread is done.
    const auto may_join = [&](uint64_t now) {
        return now != done && joined_.load(std::memory_order_seq_cst) >> turn_bits == now;
    };
    for (int spins = 0;;) {
        const uint64_t now = generation_.load(std::memory_order_acquire);
        if (ready.load(std::memory_order_relaxed) != now) ready.store(now, std::memory_order_release), spins = 0;
        if (may_join(now)) {
            if (stopping_) return;
            const uint64_t first = joined_.load(std::memory_order_relaxed) & ((uint64_t{1} << turn_bits) - 1);
            const bool has_left = function_(body_, *this, index, first);
            done = now, spins = 0;
            barrier(index);
            if (has_left) give_way();
            continue;
        }
        relax();
        if (++spins < spins_before_sleep) continue;
        std::unique_lock<std::mutex> lock(sleep_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != now || may_join(now); });
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        spins = 0;
    }
}

void Team::barrier(int index) {
    uint64_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
        return;
    }
    int spins = 1;
    for (; phase_.load(std::memory_order_acquire) == phase; ++spins) {
        relax();
        if (spins % spins_before_yield == 0) sched_yield();
    }
    if (index == 0) was_held_up_ |= spins > spins_held_up;
}

}  // namespace segue
