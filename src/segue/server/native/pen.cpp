#include "pen.h"

#include <nanobind/stl/shared_ptr.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace segue {
namespace {

constexpr uint64_t most_pieces = uint64_t{1} << 24;

void append_integer(uint64_t value, std::string* to) {
    char text[24];
    to->append(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

// The shortest digits that read back as the same f32, which is what TGI's floats are; null where JSON has none.
void append_f32(double value, std::string* to) {
    const float rounded = static_cast<float>(value);
    if (!std::isfinite(rounded)) return to->append("null"), void();
    char text[32];
#if defined(__cpp_lib_to_chars)
    // Of whole numbers without an exponent, these are all digits.
    const bool is_large = std::fabs(rounded) >= 0x1p24f;
    char* const end = text + sizeof(text);
    const auto written = is_large ? std::to_chars(text, end, rounded, std::chars_format::scientific)
                                  : std::to_chars(text, end, rounded);
    const std::string_view digits(text, static_cast<size_t>(written.ptr - text));
#else  // GCC before 11
    int size = 0;
    for (int precision = 6; precision <= 9 && (size == 0 || std::strtof(text, nullptr) != rounded); ++precision)
        size = std::snprintf(text, sizeof(text), "%.*g", precision, static_cast<double>(rounded));
    const std::string_view digits(text, static_cast<size_t>(size));
#endif
    *to += digits;
    if (digits.find_first_of(".e") == digits.npos) *to += ".0";
}

}  // namespace

const Pieces::Piece* Pieces::find(uint64_t id) {
    if (id >= most_pieces) return nullptr;
    if (id >= pieces_.size()) pieces_.resize(id + 1);
    Piece& piece = pieces_[id];
    if (piece.kind == Piece::unknown) {
        nb::object found = describe_(id);
        piece.kind = found.is_none() ? Piece::other : Piece::plain;
        if (!found.is_none()) {
            const nb::bytes text = nb::cast<nb::bytes>(found[0]);
            piece.text.assign(text.c_str(), text.size());
            piece.is_special = nb::cast<bool>(found[1]);
        }
    }
    return piece.kind == Piece::plain ? &piece : nullptr;
}

Template::Template(nb::sequence items) {
    static const std::map<std::string, Field> fields = {
        {"index", Field::index},           {"id", Field::id},           {"text", Field::text},
        {"shown_text", Field::shown_text}, {"logprob", Field::logprob}, {"special", Field::special}};
    parts_.emplace_back("", Field::none);
    for (nb::handle item : items) {
        if (nb::isinstance<nb::bytes>(item)) {
            if (parts_.back().second != Field::none) parts_.emplace_back("", Field::none);
            const nb::bytes literal = nb::borrow<nb::bytes>(item);
            parts_.back().first.append(literal.c_str(), literal.size());
            continue;
        }
        const auto field = fields.find(nb::cast<nb::str>(item).c_str());
        if (field == fields.end()) throw nb::value_error("a template has no such field");
        if (parts_.back().second != Field::none) parts_.emplace_back("", Field::none);
        parts_.back().second = field->second;
    }
}

void Template::render(uint64_t index, const Token& token, const Pieces::Piece& piece, std::string* to) const {
    for (const auto& [literal, field] : parts_) {
        *to += literal;
        switch (field) {
            case Field::none: break;
            case Field::index: append_integer(index, to); break;
            case Field::id: append_integer(token.id, to); break;
            case Field::text: *to += piece.text; break;
            case Field::shown_text: *to += piece.is_special ? "\"\"" : piece.text; break;
            case Field::logprob: append_f32(token.logprob, to); break;
            case Field::special: *to += piece.is_special ? "true" : "false"; break;
        }
    }
}

bool Pen::write(const std::vector<Token>& tokens, uint64_t num_steps) {
    if (!outlet_->takes_more()) return false;
    events_.clear();
    for (size_t i = 0; i < tokens.size(); ++i) {
        const Pieces::Piece* piece = pieces_->find(tokens[i].id);
        if (piece == nullptr) return false;
        template_->render(index_ + i, tokens[i], *piece, &events_);
    }
    outlet_->add(events_);
    index_ += tokens.size();
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    num_steps_[tokens.size() / num_steps] += num_steps;
    return true;
}

nb::tuple Pen::take() {
    nb::list ids, logprobs;
    nb::dict num_steps;
    for (const Token& token : tokens_) ids.append(token.id), logprobs.append(token.logprob);
    for (const auto& [num_tokens, count] : num_steps_) num_steps[nb::int_(num_tokens)] = count;
    tokens_.clear();
    num_steps_.clear();
    return nb::make_tuple(ids, logprobs, num_steps);
}

void bind_pen(nb::module_& module) {
    nb::class_<Pieces>(module, "Pieces").def(nb::init<nb::object>(), "describe"_a);
    nb::class_<Template>(module, "Template").def(nb::init<nb::sequence>(), "items"_a);
    nb::class_<Pen>(module, "Pen")
        .def(nb::init<std::shared_ptr<Pieces>, std::shared_ptr<Template>, std::shared_ptr<Outlet>, uint64_t>(), "pieces"_a,
             "template"_a, "outlet"_a, "index"_a)
        .def("take", &Pen::take);
}

}  // namespace segue
