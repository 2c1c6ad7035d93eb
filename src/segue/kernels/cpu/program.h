// A model's forward pass as a list of kernel calls: recorded once, then run by one call a step, without Python.
//
// Values are buffers of floats, [rows, width] each, in one arena. A step of many rows runs in tiles, all instructions
// on one tile before the next: a later tile attends to the keys that earlier ones wrote, and the arena stays small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "aligned.h"
#include "kernels.h"

namespace segue {

class Turns;

// Columns of a buffer from `column` on.
struct Place {
    int32_t buffer;
    int64_t column;
};

constexpr int32_t nowhere = -1;

// Buffers that are not in the arena: what a run is given.
constexpr int32_t external_input = -2;
constexpr int32_t external_output = -3;

enum class Ids : uint8_t { tokens, positions };
enum class Attends : uint8_t { self, cross, packed };

struct LinearStep {
    Linear weight;  // its memory is shared
    Place x, out, residual;
    Activation activation;
};

struct EmbedStep {
    Ids ids;
    EmbedCall call;  // without ids, rows and out
    Place out;
};

struct NormStep {
    NormCall call;  // without rows, x and out
    Place x, out;
};

struct AnglesStep {
    AnglesCall call;  // without positions, is_long, rows and out
    std::vector<float> inverse, long_inverse;
    Place out;
};

struct RotateStep {
    RotateCall call;  // without rows, x and angles
    Place x, angles;
};

struct BinaryStep {
    Binary op;
    int64_t dim;
    Place a, b, out;
    const float* constant;  // instead of b: one row for all
};

struct ActivateStep {
    Activation activation;
    int64_t dim;
    float scale, soft_cap;
    Place x, multiplied, out;
};

struct WriteStep {
    Cache cache;
    Place keys, values;
};

struct AttentionStep {
    Attends what;
    AttentionSpec spec;
    Cache cache;
    Place q, k, v, out;
};

using Step = std::variant<LinearStep, EmbedStep, NormStep, AnglesStep, RotateStep, BinaryStep, ActivateStep, WriteStep,
                          AttentionStep>;

// What one run is about. Arrays belong to the caller.
struct Inputs {
    int64_t rows = 0;
    const int64_t* tokens = nullptr;
    const int64_t* positions = nullptr;
    const bool* is_long = nullptr;
    const int64_t* slots = nullptr;
    Sequences self{};
    Sequences cross{};
    const float* input = nullptr;  // [rows, input_stride]
    int64_t input_stride = 0;
    float* output = nullptr;  // [rows, or what `wanted` adds up to, output_stride]
    int64_t output_stride = 0;
    const int64_t* wanted = nullptr;  // [self.count]: how many of a sequence's last rows are; null: all
};

class Program {
  public:
    // `tile_rows`: most rows of a tile. `whole_sequences`: a tile never ends inside a sequence (encoders).
    Program(std::vector<int64_t> widths, int64_t tile_rows, bool whole_sequences);

    void add(Step step) { steps_.push_back(std::move(step)); }

    // From the next step on nothing is computed but what is wanted: the last layer has written its keys, and what follows
    // of a row is for the row's own output. `buffers` are those that are still to be read.
    void narrow(std::vector<int32_t> buffers) {
        narrowed_at_ = steps_.size();
        narrowed_ = std::move(buffers);
    }
    size_t size() const { return steps_.size(); }

    bool narrows() const { return narrowed_at_ != SIZE_MAX; }

    // One run at a time.
    void run(const Inputs& inputs);

    // Seconds spent in each step since the last call; measured while `profiling`.
    std::vector<double> take_times();
    bool profiling = false;

  private:
    struct Tile;
    struct Execution;

    std::vector<Tile> tiles_of(const Inputs& inputs) const;
    void reserve(const std::vector<Tile>& tiles);
    size_t scratch_bytes(const Tile& tile) const;
    void run_tile(const Inputs& inputs, const Tile& tile, Turns& turns);
    void run_steps(const Inputs& inputs, const Tile& tile, Turns& turns, size_t begin, size_t end);
    void keep_wanted(const Tile& tile) const;

    std::vector<Step> steps_;
    size_t narrowed_at_ = SIZE_MAX;
    std::vector<int32_t> narrowed_;
    std::vector<int64_t> widths_, offsets_;  // floats; offsets_ for one row
    int64_t total_width_ = 0, tile_rows_;
    bool whole_sequences_;
    int64_t arena_rows_ = 0;
    size_t scratch_size_ = 0;
    Aligned<float> arena_;
    Aligned<std::byte> scratch_;
    std::vector<double> times_;
};

}  // namespace segue
