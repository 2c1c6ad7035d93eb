#include "team.h"

#include <pthread.h>
#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace segue {
namespace {

// About 50 us: longer than the gap between two steps of a busy server, short beside a request.
constexpr int spins_before_sleep = 20000;
// A partner that has lost its processor will not come by spinning: give this one up now and then.
constexpr int spins_before_yield = 4000;

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
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
    if (team != nullptr) team->barrier();
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
    bound_.clear();
    for (int i = 1; i < size; ++i) {
        int processor = enough ? processors[processors.size() - static_cast<size_t>(i)] : -1;
        if (enough) bound_.push_back(processor);
        workers_.emplace_back([this, i, processor, seen] { work(i, processor, seen); });
    }
}

void Team::stop() {
    {
        std::lock_guard<std::mutex> lock(sleep_);
        stopping_ = true;
        generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
}

void Team::run_erased(Erased function, const void* body) {
    std::lock_guard<std::mutex> turn(turn_);
    if (workers_.empty()) {
        function(body, Slice{});
        return;
    }
    KeptOff kept(bound_);
    function_ = function;
    body_ = body;
    generation_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) {
        std::lock_guard<std::mutex> lock(sleep_);
        wake_.notify_all();
    }
    function(body, Slice{0, size(), this, shares_.get()});
    barrier();
}

void Team::work(int index, int processor, uint64_t seen) {
    if (processor >= 0) bind_to(processor);
    for (uint64_t now;; seen = now) {
        int spins = 0;
        while ((now = generation_.load(std::memory_order_acquire)) == seen) {
            relax();
            if (++spins < spins_before_sleep) continue;
            std::unique_lock<std::mutex> lock(sleep_);
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
            sleepers_.fetch_sub(1, std::memory_order_seq_cst);
            spins = 0;
        }
        if (stopping_) return;
        function_(body_, Slice{index, size(), this, shares_.get()});
        barrier();
    }
}

void Team::barrier() {
    uint64_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
        return;
    }
    for (int spins = 1; phase_.load(std::memory_order_acquire) == phase; ++spins) {
        relax();
        if (spins % spins_before_yield == 0) sched_yield();
    }
}

}  // namespace segue
