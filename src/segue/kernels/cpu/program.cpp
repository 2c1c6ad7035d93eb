#include "program.h"

#include <algorithm>
#include <chrono>

#include "team.h"

namespace segue {
namespace {

// The sequences that have rows in [begin, end), seen from that tile.
struct Part {
    int64_t first = 0;
    std::vector<int64_t> query_starts, kv_lens;

    Part() = default;

    Part(const Sequences& all, int64_t begin, int64_t end, bool causal) {
        while (first < all.count && all.query_starts[first + 1] <= begin) ++first;
        query_starts.push_back(0);
        for (int64_t i = first; i < all.count && all.query_starts[i] < end; ++i) {
            int64_t last = all.query_starts[i + 1];
            query_starts.push_back(std::min(last, end) - begin);
            kv_lens.push_back(all.kv_lens[i] - (causal ? std::max<int64_t>(last - end, 0) : 0));
        }
    }

    // The same sequences with only the last rows of each, so many of sequence first + i as counts[i] says.
    Part last_rows(const std::vector<int64_t>& counts) const {
        Part part;
        part.first = first;
        part.kv_lens = kv_lens;
        part.query_starts.push_back(0);
        for (size_t i = 0; i < kv_lens.size(); ++i) part.query_starts.push_back(part.query_starts.back() + counts[i]);
        return part;
    }

    Sequences view(const Sequences& all) const {
        const int64_t* tables = all.block_tables ? all.block_tables + first * all.table_width : nullptr;
        return {static_cast<int64_t>(kv_lens.size()), query_starts.data(), kv_lens.data(), tables, all.table_width};
    }
};

}  // namespace

struct Program::Tile {
    int64_t begin, rows;
    int64_t out_begin;  // of its rows in the output
    Part self, cross;
    std::vector<int64_t> wanted;  // rows; empty where all are, or none is
    std::unique_ptr<Tile> narrowed;  // of the wanted rows, where they are not all

    // `num_out`: rows of the output before this tile's.
    Tile(const Inputs& inputs, int64_t begin, int64_t end, int64_t num_out)
        : begin(begin),
          rows(end - begin),
          out_begin(num_out),
          self(inputs.self, begin, end, true),
          cross(inputs.cross, begin, end, false) {
        if (inputs.wanted) narrow(inputs);
    }

    int64_t num_out() const { return narrowed ? narrowed->rows : rows; }

  private:
    Tile(const Tile& whole, const std::vector<int64_t>& counts, int64_t rows)
        : begin(whole.begin),
          rows(rows),
          out_begin(whole.out_begin),
          self(whole.self.last_rows(counts)),
          cross(whole.cross.kv_lens.empty() ? Part() : whole.cross.last_rows(counts)) {}

    void narrow(const Inputs& inputs) {
        std::vector<int64_t> counts;
        for (size_t i = 0; i < self.kv_lens.size(); ++i) {
            const int64_t sequence = self.first + static_cast<int64_t>(i), first = self.query_starts[i];
            const int64_t last = self.query_starts[i + 1], end = inputs.self.query_starts[sequence + 1];
            const int64_t from = std::clamp(end - inputs.wanted[sequence] - begin, first, last);
            for (int64_t row = from; row < last; ++row) wanted.push_back(row);
            counts.push_back(last - from);
        }
        const auto num_wanted = static_cast<int64_t>(wanted.size());
        if (num_wanted < rows) narrowed.reset(new Tile(*this, counts, num_wanted));
    }
};

Program::Program(std::vector<int64_t> widths, int64_t tile_rows, bool whole_sequences)
    : widths_(std::move(widths)),
      tile_rows_(tile_rows),
      whole_sequences_(whole_sequences),
      arena_(nullptr, std::free),
      scratch_(nullptr, std::free) {
    for (int64_t width : widths_) {
        offsets_.push_back(total_width_);
        total_width_ += width;
    }
}

std::vector<Program::Tile> Program::tiles_of(const Inputs& inputs) const {
    std::vector<Tile> tiles;
    int64_t num_out = 0;
    for (int64_t begin = 0, end; begin < inputs.rows; begin = end) {
        end = std::min(begin + tile_rows_, inputs.rows);
        if (whole_sequences_) {
            const int64_t* starts = inputs.self.query_starts;
            const int64_t* next = std::upper_bound(starts, starts + inputs.self.count + 1, end);
            end = next[-1] > begin ? next[-1] : *next;  // one sequence longer than a tile is a tile
        }
        tiles.emplace_back(inputs, begin, end, num_out);
        num_out += tiles.back().num_out();
    }
    return tiles;
}

size_t Program::scratch_bytes(const Tile& tile) const {
    size_t most = 0;
    int threads = Team::get().size();
    for (const Step& step : steps_) {
        if (auto* linear = std::get_if<LinearStep>(&step)) {
            most = std::max(most, linear_scratch_bytes(linear->weight, tile.rows));
        } else if (auto* attention = std::get_if<AttentionStep>(&step)) {
            const Part& part = attention->what == Attends::cross ? tile.cross : tile.self;
            most = std::max(most, attention_scratch_bytes(attention->spec, part.view({}), threads));
        }
    }
    return most;
}

void Program::reserve(const std::vector<Tile>& tiles) {
    int64_t rows = 0;
    size_t scratch = 0;
    for (const Tile& tile : tiles) {
        rows = std::max(rows, tile.rows);
        scratch = std::max(scratch, scratch_bytes(tile));
        if (tile.narrowed) scratch = std::max(scratch, scratch_bytes(*tile.narrowed));
    }
    if (rows > arena_rows_) {
        arena_ = aligned<float>(sizeof(float) * static_cast<size_t>(rows * total_width_));
        arena_rows_ = rows;
    }
    if (scratch > scratch_size_) {
        scratch_ = aligned<std::byte>(scratch);
        scratch_size_ = scratch;
    }
}

void Program::run(const Inputs& inputs) {
    std::vector<Tile> tiles = tiles_of(inputs);
    reserve(tiles);
    if (profiling) times_.resize(steps_.size());
    Team::get().run_turns([&](Turns& turns) {
        for (const Tile& tile : tiles) run_tile(inputs, tile, turns);
    });
}

std::vector<double> Program::take_times() {
    std::vector<double> taken;
    taken.swap(times_);
    return taken;
}

// Runs steps on one tile: fills in what a step does not know, where its values are and which rows.
struct Program::Execution {
    const Program& program;
    const Inputs& inputs;
    const Tile& tile;
    const Slice& slice;
    const Kernels& table = kernels();

    float* data(const Place& place) const {
        switch (place.buffer) {
            case nowhere: return nullptr;
            // Read only: a step never has it as `out`.
            case external_input:
                return const_cast<float*>(inputs.input) + tile.begin * inputs.input_stride + place.column;
            case external_output: return inputs.output + tile.out_begin * inputs.output_stride + place.column;
        }
        return program.arena_.get() + program.offsets_[static_cast<size_t>(place.buffer)] * program.arena_rows_ +
               place.column;
    }

    int64_t gap(const Place& place) const {
        switch (place.buffer) {
            case nowhere: return 0;
            case external_input: return inputs.input_stride;
            case external_output: return inputs.output_stride;
        }
        return program.widths_[static_cast<size_t>(place.buffer)];
    }

    void operator()(const LinearStep& s) const {
        LinearCall call{data(s.x),       gap(s.x), tile.rows,    data(s.out),           gap(s.out), data(s.residual),
                        gap(s.residual), 1.0f,     s.activation, program.scratch_.get()};
        table.linear.run(s.weight, call, slice);
    }

    void operator()(const EmbedStep& s) const {
        EmbedCall call = s.call;
        call.ids = (s.ids == Ids::tokens ? inputs.tokens : inputs.positions) + tile.begin;
        call.rows = tile.rows;
        call.out = data(s.out);
        call.out_stride = gap(s.out);
        table.rows.embed(call, slice);
    }

    void operator()(const NormStep& s) const {
        NormCall call = s.call;
        call.x = data(s.x);
        call.x_stride = gap(s.x);
        call.rows = tile.rows;
        call.out = data(s.out);
        call.out_stride = gap(s.out);
        table.rows.norm(call, slice);
    }

    void operator()(const AnglesStep& s) const {
        AnglesCall call = s.call;
        call.positions = inputs.positions + tile.begin;
        call.is_long = inputs.is_long ? inputs.is_long + tile.begin : nullptr;
        call.rows = tile.rows;
        call.inverse = s.inverse.data();
        call.long_inverse = s.long_inverse.data();
        call.out = data(s.out);
        table.rows.angles(call, slice);
    }

    void operator()(const RotateStep& s) const {
        RotateCall call = s.call;
        call.x = data(s.x);
        call.x_stride = gap(s.x);
        call.rows = tile.rows;
        call.angles = data(s.angles);
        table.rows.rotate(call, slice);
    }

    void operator()(const BinaryStep& s) const {
        BinaryCall call{data(s.a), s.constant ? s.constant : data(s.b), gap(s.a), s.constant ? 0 : gap(s.b), gap(s.out),
                        tile.rows, s.dim, s.op, 1.0f, data(s.out)};
        table.rows.binary(call, slice);
    }

    void operator()(const ActivateStep& s) const {
        ActivateCall call{data(s.x), data(s.multiplied), gap(s.x),   gap(s.multiplied), gap(s.out), tile.rows,
                          s.dim,     s.scale,            s.soft_cap, s.activation,      data(s.out)};
        table.rows.activate(call, slice);
    }

    void operator()(const WriteStep& s) const {
        WriteCall call{data(s.keys), data(s.values), gap(s.keys), gap(s.values), tile.rows, inputs.slots + tile.begin,
                       s.cache};
        table.attention.write(call, slice);
    }

    void operator()(const AttentionStep& s) const {
        bool crosses = s.what == Attends::cross;
        Sequences sequences = crosses ? tile.cross.view(inputs.cross) : tile.self.view(inputs.self);
        AttentionCall call{data(s.q), gap(s.q),  s.cache, data(s.k),   data(s.v),  gap(s.k),
                           gap(s.v),  sequences, s.spec,  data(s.out), gap(s.out), program.scratch_.get()};
        (s.what == Attends::packed ? table.attention.packed : table.attention.paged)(call, slice);
    }
};

void Program::run_tile(const Inputs& inputs, const Tile& tile, Turns& turns) {
    if (!tile.narrowed) return run_steps(inputs, tile, turns, 0, steps_.size());
    run_steps(inputs, tile, turns, 0, narrowed_at_);
    if (tile.narrowed->rows == 0) return;
    if (const Slice* slice = turns.next()) {
        if (slice->index == 0) keep_wanted(tile);
        slice->barrier();
    }
    run_steps(inputs, *tile.narrowed, turns, narrowed_at_, steps_.size());
}

// Moves the wanted rows to the front.
void Program::keep_wanted(const Tile& tile) const {
    for (int32_t buffer : narrowed_) {
        const int64_t width = widths_[static_cast<size_t>(buffer)];
        float* rows = arena_.get() + offsets_[static_cast<size_t>(buffer)] * arena_rows_;
        for (size_t i = 0; i < tile.wanted.size(); ++i) {
            if (tile.wanted[i] != static_cast<int64_t>(i))
                std::copy_n(rows + tile.wanted[i] * width, width, rows + static_cast<int64_t>(i) * width);
        }
    }
}

void Program::run_steps(const Inputs& inputs, const Tile& tile, Turns& turns, size_t begin, size_t end) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point before = profiling ? Clock::now() : Clock::time_point();
    for (size_t i = begin; i < end; ++i) {
        const Slice* slice = turns.next();
        if (slice == nullptr) continue;
        std::visit(Execution{*this, inputs, tile, *slice}, steps_[i]);
        slice->barrier();
        if (profiling && slice->index == 0) {
            Clock::time_point now = Clock::now();
            times_[i] += std::chrono::duration<double>(now - before).count();
            before = now;
        }
    }
}

}  // namespace segue
