#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "kernels.h"
#include "team.h"

namespace segue {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr int sum_bits = 62;

// Room for the sum of as many peaks as there are ids.
float unit_of(int64_t vocab_size) {
    int bits = 0;
    while (vocab_size >> bits) ++bits;
    return std::ldexp(1.0f, sum_bits - bits);
}

// A greedy row is summed in pieces of this many logits, so that the threads share one row too.
constexpr int64_t piece_size = 16 * peak_block;

int64_t num_pieces(int64_t vocab_size) { return (vocab_size + piece_size - 1) / piece_size; }

int64_t num_chunks(int64_t vocab_size) { return (vocab_size + logit_chunk - 1) / logit_chunk; }

// One row, and what is known of its chunks.
class Row {
  public:
    Row(float* logits, int64_t size) : x_(logits), size_(size), unit_(unit_of(size)), largest_(num_chunks(size)) {
        table_.maxima(x_, size_, largest_.data());
        peak_ = -infinity;
        for (float each : largest_) peak_ = std::isnan(peak_) || each <= peak_ ? peak_ : each;
    }

    float peak() const { return peak_; }

    // The sum of all masses. Fills in those of the chunks.
    int64_t total() {
        sums_.resize(largest_.size());
        table_.mass_sums(x_, size_, peak_, unit_, sums_.data());
        int64_t total = 0;
        for (int64_t sum : sums_) total += sum;
        return total;
    }

    float log_total(int64_t total) const {
        return static_cast<float>(std::log(static_cast<double>(total) / static_cast<double>(unit_)));
    }

    // The first id whose cumulative mass exceeds `target`. After `total`.
    int64_t draw(int64_t target) const {
        size_t chunk = 0;
        for (; chunk + 1 < sums_.size() && sums_[chunk] <= target; ++chunk) target -= sums_[chunk];
        int64_t masses[logit_chunk], begin = static_cast<int64_t>(chunk) * logit_chunk;
        int64_t count = std::min(logit_chunk, size_ - begin), i = 0;
        table_.masses(x_ + begin, count, peak_, unit_, masses);
        while (i + 1 < count && masses[i] <= target) target -= masses[i++];
        return begin + i;
    }

    // The ids of the logits that `holds`, which holds for every larger one too.
    template <class Holds>
    Alternatives ids_where(const Holds& holds) const {
        Alternatives found;
        for (size_t chunk = 0; chunk < largest_.size(); ++chunk) {
            if (!holds(largest_[chunk])) continue;
            for (const float* x = begin_of(chunk); x != end_of(chunk); ++x)
                if (holds(*x)) found.emplace_back(x - x_, 0.0f);
        }
        return found;
    }

    // A number that at least `count` logits reach.
    float reached_by(int64_t count) const {
        if (count > static_cast<int64_t>(largest_.size())) return -infinity;
        std::vector<float> chunks = largest_;
        std::nth_element(chunks.begin(), chunks.begin() + count - 1, chunks.end(), std::greater<float>());
        return chunks[static_cast<size_t>(count - 1)];
    }

    // visit(logit) for those of the chunks of which one is at least `least`.
    template <class Visit>
    void each(float least, const Visit& visit) const {
        for (size_t chunk = 0; chunk < largest_.size(); ++chunk)
            if (largest_[chunk] >= least) std::for_each(begin_of(chunk), end_of(chunk), visit);
    }

    // visit(logit, mass) for the same.
    template <class Visit>
    void each_mass(float least, const Visit& visit) const {
        int64_t masses[logit_chunk];
        for (size_t chunk = 0; chunk < largest_.size(); ++chunk) {
            if (largest_[chunk] < least) continue;
            const float *begin = begin_of(chunk), *end = end_of(chunk);
            table_.masses(begin, end - begin, peak_, unit_, masses);
            for (const float* x = begin; x != end; ++x) visit(*x, masses[x - begin]);
        }
    }

    // Of the logits beside keys.
    std::vector<int64_t> masses_of(const std::vector<std::pair<float, float>>& found) const {
        std::vector<float> logits;
        for (const auto& [key, logit] : found) logits.push_back(logit);
        std::vector<int64_t> masses(logits.size());
        table_.masses(logits.data(), static_cast<int64_t>(logits.size()), peak_, unit_, masses.data());
        return masses;
    }

    void drop_below(float least) const { table_.drop_below(x_, size_, least); }

    // Drops the first `count` of the ids whose logit is `logit`.
    void drop_first(float logit, int64_t count) const {
        for (size_t chunk = 0; count > 0 && chunk < largest_.size(); ++chunk) {
            if (largest_[chunk] < logit) continue;
            for (float* x = x_ + chunk * logit_chunk; count > 0 && x != end_of(chunk); ++x)
                if (*x == logit) *x = -infinity, --count;
        }
    }

  private:
    const float* begin_of(size_t chunk) const { return x_ + chunk * logit_chunk; }
    const float* end_of(size_t chunk) const {
        return x_ + std::min(static_cast<int64_t>(chunk + 1) * logit_chunk, size_);
    }

    const SamplingKernels& table_ = kernels().sampling;
    float* x_;
    int64_t size_;
    float unit_, peak_;
    std::vector<float> largest_;
    std::vector<int64_t> sums_;
};

constexpr Chosen no_choice(float peak) { return {0, std::numeric_limits<float>::quiet_NaN(), peak, 0}; }

Chosen draw(float* logits, int64_t size, double uniform) {
    Row row(logits, size);
    if (!std::isfinite(row.peak())) return no_choice(row.peak());
    int64_t total = row.total();
    // Below the total even where the product is rounded up: see draw() in sampling/choose.py.
    int64_t id = row.draw(static_cast<int64_t>(uniform * static_cast<double>(total)));
    float log_total = row.log_total(total);
    return {id, (logits[id] - row.peak()) - log_total, row.peak(), log_total};
}

Chosen largest(float* logits, int64_t size, const Sum* pieces) {
    const Sum *end = pieces + num_pieces(size), *best = pieces;
    for (const Sum* piece = pieces; piece != end; ++piece)
        if (piece->peak > best->peak) best = piece;
    double sum = 0;
    for (const Sum* piece = pieces; piece != end; ++piece)
        sum += piece->sum * std::exp(static_cast<double>(piece->peak) - static_cast<double>(best->peak));
    if (!std::isfinite(best->peak) || std::isnan(sum)) return no_choice(Row(logits, size).peak());
    float* from = logits + (best - pieces) * piece_size + best->near;
    auto log_total = static_cast<float>(std::log(sum));
    return {std::find(from, logits + size, best->peak) - logits, 0.0f - log_total, best->peak, log_total};
}

// The smallest mass, at least 1, that is `share` of `total` or more; never more than all.
int64_t reach(int64_t total, double share) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(static_cast<double>(total) * share)), 1, total);
}

// Of the logits that a target reaches, the last, and those that tie with it.
struct Edge {
    float logit;
    int64_t mass;    // of one
    int64_t count;   // of all that tie
    int64_t before;  // the mass of what comes before them
};

// Where the masses of logits add up to `target`, in the order of key_of(logit), along which distance_of(logit) does not
// fall. The masses of equal parts of the distances are added up, so that only the logits of one part are sorted. Looks as
// far as `depth`, and into chunks that reach `least`, which hold all logits so near; none: the target lies further.
template <class DistanceOf, class KeyOf>
std::optional<Edge> edge_within(float depth, float least, const Row& row, int64_t target, const DistanceOf& distance_of,
                                const KeyOf& key_of) {
    constexpr int num_parts = 2048;
    const float parts_a_unit = static_cast<float>(num_parts) / depth;
    const auto part_of = [&](float logit) {
        const float part = distance_of(logit) * parts_a_unit;
        return part < static_cast<float>(num_parts) ? static_cast<int>(part) : num_parts;  // infinite ones too
    };
    std::vector<int64_t> masses(num_parts + 1);
    row.each_mass(least, [&](float logit, int64_t mass) { masses[static_cast<size_t>(part_of(logit))] += mass; });
    int part = 0;
    int64_t before = 0;
    for (; part < num_parts && before + masses[static_cast<size_t>(part)] < target; ++part)
        before += masses[static_cast<size_t>(part)];
    if (part == num_parts) return std::nullopt;
    std::vector<std::pair<float, float>> found;  // keys and logits
    row.each(least, [&](float logit) {
        if (part_of(logit) == part) found.emplace_back(key_of(logit), logit);
    });
    std::sort(found.begin(), found.end());
    const std::vector<int64_t> of_found = row.masses_of(found);
    for (size_t begin = 0, end = 0;; begin = end) {
        int64_t together = 0;
        for (; end < found.size() && found[end].first == found[begin].first; ++end) together += of_found[end];
        if (before + together >= target || end == found.size())
            return Edge{found[begin].second, of_found[begin], static_cast<int64_t>(end - begin), before};
        before += together;
    }
}

// The same at any distance; most of the mass is near the peak. least_at(depth): as `least`.
template <class LeastAt, class DistanceOf, class KeyOf>
std::optional<Edge> edge_of(const Row& row, int64_t target, const LeastAt& least_at, const DistanceOf& distance_of,
                            const KeyOf& key_of) {
    constexpr float deepest = 64.0f;  // no mass is further below the peak
    for (float depth : {8.0f, deepest})
        if (auto edge = edge_within(depth, least_at(depth), row, target, distance_of, key_of)) return edge;
    return std::nullopt;
}

// The `count`-th largest, of a row without NaN.
float largest_at(const Row& row, int64_t count) {
    const float least = row.reached_by(count);
    std::vector<float> best;
    row.each(least, [&](float logit) {
        if (logit >= least) best.push_back(logit);
    });
    std::nth_element(best.begin(), best.begin() + count - 1, best.end(), std::greater<float>());
    return best[static_cast<size_t>(count - 1)];
}

}  // namespace

void keep_top_k(float* logits, int64_t size, int64_t limit) {
    Row row(logits, size);
    if (!std::isnan(row.peak())) row.drop_below(largest_at(row, limit));
}

Alternatives likeliest(float* logits, int64_t size, int64_t count, const Chosen& chosen) {
    if (std::isnan(chosen.logprob)) return {};
    Row row(logits, size);
    const auto logprob_of = [&](float logit) { return (logit - chosen.peak) - chosen.log_total; };
    const float last = logprob_of(largest_at(row, std::min(count, size)));
    const float least = std::max(last, std::numeric_limits<float>::lowest());
    Alternatives found = row.ids_where([&](float logit) { return logprob_of(logit) >= least; });
    for (auto& [id, logprob] : found) logprob = logprob_of(logits[id]);
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
        return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    return found;
}

void keep_top_p(float* logits, int64_t size, double share) {
    Row row(logits, size);
    if (!std::isfinite(row.peak())) return;
    const int64_t target = reach(row.total(), share);
    const auto below = [&](float x) { return row.peak() - x; };  // how deep a logit lies, or which lies so deep
    const auto edge = edge_of(row, target, below, below, [](float logit) { return -logit; });
    if (!edge) return;
    const int64_t one = std::max<int64_t>(edge->mass, 1);
    row.drop_below(edge->logit);
    row.drop_first(edge->logit, edge->count - std::max<int64_t>((target - edge->before + one - 1) / one, 1));
}

void keep_typical(float* logits, int64_t size, double share) {
    Row row(logits, size);
    if (!std::isfinite(row.peak())) return;
    // A mass of 0 times a finite distance is 0; times infinity it would be NaN.
    int64_t moments = 0;
    row.each_mass(-infinity, [&](float logit, int64_t mass) {
        moments += static_cast<int64_t>(static_cast<float>(mass) * std::min(row.peak() - logit, 1e30f));
    });
    const int64_t total = row.total();
    const auto mean = static_cast<float>(static_cast<double>(moments) / static_cast<double>(total));
    const auto score_of = [&](float logit) { return std::fabs((row.peak() - logit) - mean); };
    const auto found = edge_of(row, reach(total, share), [](float) { return -infinity; }, score_of, score_of);
    if (!found) return;
    const float edge = score_of(found->logit);
    // Without a branch, which a flat row would have guessed wrong for every third logit.
    for (int64_t i = 0; i < size; ++i) logits[i] = score_of(logits[i]) > edge ? -infinity : logits[i];
}

std::vector<Chosen> choose(const LogitRows& rows, const std::vector<double>& uniforms) {
    int64_t count = static_cast<int64_t>(uniforms.size()), parts = num_pieces(rows.vocab_size);
    std::vector<Chosen> choices(uniforms.size());
    std::vector<Sum> sums(uniforms.size() * static_cast<size_t>(parts));
    auto sum = kernels().sampling.sum;
    Team::get().run([&](const Slice& slice) {
        Range mine = slice.part(count * parts);
        for (int64_t i = mine.begin; i < mine.end; ++i) {
            int64_t row = i / parts, begin = i % parts * piece_size;
            float* logits = rows.data + row * rows.stride;
            double uniform = uniforms[static_cast<size_t>(row)];
            if (uniform < 0)
                sums[static_cast<size_t>(i)] = sum(logits + begin, std::min(piece_size, rows.vocab_size - begin));
            else if (begin == 0)
                choices[static_cast<size_t>(row)] = draw(logits, rows.vocab_size, uniform);
        }
    });
    for (int64_t row = 0; row < count; ++row)
        if (uniforms[static_cast<size_t>(row)] < 0)
            choices[static_cast<size_t>(row)] =
                largest(rows.data + row * rows.stride, rows.vocab_size, &sums[static_cast<size_t>(row * parts)]);
    return choices;
}

std::vector<float> peaks_of(const LogitRows& rows, int64_t count) {
    std::vector<float> peaks(static_cast<size_t>(count));
    Team::get().run([&](const Slice& slice) {
        Range mine = slice.part(count);
        for (int64_t i = mine.begin; i < mine.end; ++i)
            peaks[static_cast<size_t>(i)] = Row(rows.data + i * rows.stride, rows.vocab_size).peak();
    });
    return peaks;
}

template <class Number, class Keep>
static void keep(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<Number>& given,
                 const Keep& keep) {
    Team::get().run([&](const Slice& slice) {
        Range mine = slice.part(static_cast<int64_t>(rows.size()));
        for (auto i = static_cast<size_t>(mine.begin); i < static_cast<size_t>(mine.end); ++i)
            keep(logits.data + rows[i] * logits.stride, logits.vocab_size, given[i]);
    });
}

void keep_top_k(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<int64_t>& limits) {
    keep(logits, rows, limits, [](float* x, int64_t size, int64_t limit) { keep_top_k(x, size, limit); });
}

void keep_top_p(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<double>& shares) {
    keep(logits, rows, shares, [](float* x, int64_t size, double share) { keep_top_p(x, size, share); });
}

void keep_typical(const LogitRows& logits, const std::vector<int64_t>& rows, const std::vector<double>& shares) {
    keep(logits, rows, shares, [](float* x, int64_t size, double share) { keep_typical(x, size, share); });
}

}  // namespace segue
