// The short way of a token: from the engine's bytes to the client's connection in one call, without a Python object.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "outlet.h"
#include "packed.h"
#include "pen.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace segue {
namespace {

constexpr size_t length_bytes = 4;
constexpr size_t most_frame_bytes = size_t{1} << 28;
constexpr size_t most_held = 64;

// Fields of RequestOutput and TokenOutput in core/output.py: a step of another form is left to Python.
constexpr size_t output_fields = 8, token_fields = 3;

// One output of a step, as it lies in the frame.
struct Output {
    const uint8_t *begin, *tokens, *last_token, *steps, *end;
    uint64_t request_id;
    uint64_t num_steps;
    bool is_plain;  // tokens and nothing else
    bool is_end;    // several tokens, one a step, and nothing else but the end with the last one
};

Output read_output(Packed* from, std::vector<Token>* tokens) {
    Output output{};
    output.begin = from->at();
    if (from->array() != output_fields) throw Malformed();
    output.request_id = from->integer();
    output.tokens = from->at();
    tokens->clear();
    bool has_top_tokens = false;
    for (size_t left = from->array(); left > 0; --left) {
        output.last_token = from->at();
        if (from->array() != token_fields) throw Malformed();
        const uint64_t id = from->integer();
        tokens->push_back({id, from->number()});
        const size_t num_top_tokens = from->array();
        has_top_tokens |= num_top_tokens > 0;
        for (size_t i = 0; i < num_top_tokens; ++i) from->skip();
    }
    const bool has_no_end = from->skip(), has_no_error = from->skip(), has_no_prompt = from->skip();
    from->skip();  // num_cached_tokens
    const bool is_not_first = from->skip();
    output.steps = from->at();
    output.num_steps = from->integer();
    output.end = from->at();
    const bool has_tokens_only = !tokens->empty() && output.num_steps > 0 && !has_top_tokens && has_no_error && has_no_prompt
                                 && is_not_first;
    output.is_plain = has_tokens_only && has_no_end;
    output.is_end = has_tokens_only && !has_no_end && tokens->size() > 1 && tokens->size() == output.num_steps;
    return output;
}

void append(const uint8_t* begin, const uint8_t* end, std::string* to) {
    to->append(reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin));
}

// Of an end: the output as it were of the last step alone.
void append_last_step(const Output& output, std::string* to) {
    append(output.begin, output.tokens, to);
    *to += '\x91';  // an array of 1
    append(output.last_token, output.steps, to);
    *to += '\x01';
}

// The streams whose tokens are written here.
class Lane {
  public:
    // `step_tag`: the first byte of a frame that holds an EngineStep.
    explicit Lane(uint8_t step_tag) : step_tag_(step_tag) {}

    void open(uint64_t request_id, std::shared_ptr<Pen> pen) { pens_[request_id] = std::move(pen); }
    void drop(uint64_t request_id) { pens_.erase(request_id); }
    void clear() { pens_.clear(); }
    size_t size() const { return pens_.size(); }

    // Writes what a frame gives to streams of this lane. The frame without it; `has_rest`: it still has outputs, or is
    // another message. A stream with anything else than plain tokens in a step leaves the lane before it.
    std::string take(const uint8_t* begin, const uint8_t* end, bool* has_rest) {
        *has_rest = true;
        if (!pens_.empty() && begin != end && *begin == step_tag_) try {
                return take_step(begin + 1, end, has_rest);
            } catch (const Malformed&) {  // found before anything of it is written
                pens_.clear();  // whoever has something in it has that first
            }
        return std::string(reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin));
    }

    void flush() {
        for (size_t i = 0; i < touched_.size(); ++i) try {  // what is called may come here again
                const std::shared_ptr<Outlet> outlet = touched_[i];
                outlet->flush();
            } catch (nb::python_error& error) {
                error.discard_as_unraisable("a stream's connection");
            }
        touched_.clear();
    }

  private:
    std::string take_step(const uint8_t* begin, const uint8_t* end, bool* has_rest) {
        Packed from(begin, end);
        if (from.array() != 2) throw Malformed();
        const size_t count = from.array();
        outputs_.clear();
        steps_.resize(std::max(steps_.size(), count));
        for (size_t i = 0; i < count; ++i) outputs_.push_back(read_output(&from, &steps_[i]));
        const uint8_t* stats = from.at();
        from.skip();
        if (!from.is_at_end()) throw Malformed();
        std::string rest{static_cast<char>(step_tag_), '\x92', '\xdd', 0, 0, 0, 0};  // an array of 2; one of a 32-bit length
        size_t num_left = 0;
        for (size_t i = 0; i < count; ++i) num_left += !write(outputs_[i], &steps_[i], &rest);
        for (size_t i = 0; i < 4; ++i) rest[3 + i] = static_cast<char>(num_left >> (24 - 8 * i) & 0xff);
        *has_rest = num_left > 0;
        return append(stats, end, &rest), rest;
    }

    // Writes an output, or of an end all but the last token, with which the stream's own writer sends them. Whether that
    // is all; what is left goes to `rest`.
    bool write(const Output& output, std::vector<Token>* tokens, std::string* rest) {
        const auto found = pens_.find(output.request_id);
        if (found == pens_.end()) return append(output.begin, output.end, rest), false;
        const std::shared_ptr<Pen> pen = found->second;  // a text is asked for in Python, which may drop it
        const std::shared_ptr<Outlet>& outlet = pen->outlet();
        const bool is_untouched = outlet->is_empty();
        if (output.is_end) tokens->pop_back();
        bool is_written = false;
        try {
            is_written = (output.is_plain || output.is_end) && pen->write(*tokens, output.num_steps - output.is_end);
        } catch (nb::python_error& error) {
            error.discard_as_unraisable("a token's text");
        }
        if (is_written && output.is_plain) {
            if (is_untouched) touched_.push_back(outlet);
            return true;
        }
        pens_.erase(output.request_id);
        if (!is_written) return append(output.begin, output.end, rest), false;
        touched_.erase(std::remove(touched_.begin(), touched_.end(), outlet), touched_.end());
        return append_last_step(output, rest), false;
    }

    uint8_t step_tag_;
    std::unordered_map<uint64_t, std::shared_ptr<Pen>> pens_;
    std::vector<std::shared_ptr<Outlet>> touched_;
    std::vector<Output> outputs_;
    std::vector<std::vector<Token>> steps_;
};

// The frames of one connection that the lane leaves over.
class LaneReader {
  public:
    explicit LaneReader(std::shared_ptr<Lane> lane) : lane_(std::move(lane)) {}

    // The frames that end in `data`, in their order. Those that have nothing left but a step's statistics are held until
    // others come, or many. Raises ValueError for what cannot be the engine's.
    nb::list feed(const nb::bytes& data) {
        const auto* begin = reinterpret_cast<const uint8_t*>(data.c_str());
        const uint8_t* end = begin + data.size();
        if (!rest_.empty()) {
            rest_.append(data.c_str(), data.size());
            begin = reinterpret_cast<const uint8_t*>(rest_.data()), end = begin + rest_.size();
        }
        const uint8_t* at = begin;
        try {
            at = read(begin, end);
        } catch (...) {
            lane_->flush();
            throw;
        }
        if (rest_.empty()) rest_.assign(reinterpret_cast<const char*>(at), static_cast<size_t>(end - at));
        else rest_.erase(0, static_cast<size_t>(at - begin));
        lane_->flush();
        return must_release_ ? release() : nb::list();
    }

    nb::list release() {
        nb::list frames;
        for (const std::string& frame : held_) frames.append(nb::bytes(frame.data(), frame.size()));
        held_.clear();
        must_release_ = false;
        return frames;
    }

  private:
    const uint8_t* read(const uint8_t* at, const uint8_t* end) {
        while (static_cast<size_t>(end - at) >= length_bytes) {
            const size_t length = at[0] | at[1] << 8 | at[2] << 16 | static_cast<size_t>(at[3]) << 24;
            if (length > most_frame_bytes) throw nb::value_error("a frame that is too long");
            if (static_cast<size_t>(end - at) - length_bytes < length) break;
            at += length_bytes;
            bool has_rest;
            held_.push_back(lane_->take(at, at + length, &has_rest));
            must_release_ |= has_rest || held_.size() >= most_held;
            at += length;
        }
        return at;
    }

    std::shared_ptr<Lane> lane_;
    std::string rest_;  // what came of the next frame, its length included
    std::vector<std::string> held_;
    bool must_release_ = false;
};

}  // namespace
}  // namespace segue

NB_MODULE(_lane, module) {
    using namespace segue;
    nb::set_leak_warnings(false);  // a server that is killed leaves streams behind
    bind_outlet(module);
    bind_pen(module);
    nb::class_<Lane>(module, "Lane")
        .def(nb::init<uint8_t>(), "step_tag"_a)
        .def("open", &Lane::open, "request_id"_a, "pen"_a)
        .def("drop", &Lane::drop, "request_id"_a)
        .def("clear", &Lane::clear)
        .def("__len__", &Lane::size)
        .def("reader", [](std::shared_ptr<Lane> lane) { return std::make_shared<LaneReader>(std::move(lane)); });
    nb::class_<LaneReader>(module, "LaneReader")
        .def("feed", &LaneReader::feed, "data"_a)
        .def("release", &LaneReader::release);
}
