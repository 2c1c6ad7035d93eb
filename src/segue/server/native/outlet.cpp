#include "outlet.h"

#include <sys/socket.h>
#include <time.h>

#include <charconv>

namespace nb = nanobind;
using nb::literals::operator""_a;

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  // macOS; Python ignores SIGPIPE
#endif

namespace segue {
namespace {

// Of Python's time.monotonic().
#ifdef __APPLE__
constexpr clockid_t clock_id = CLOCK_UPTIME_RAW;
#else
constexpr clockid_t clock_id = CLOCK_MONOTONIC;
#endif

double now_s() {
    timespec now;
    clock_gettime(clock_id, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

Outlet::Outlet(int socket, nb::object write, nb::object num_waiting)
    : is_full(false), written_time(now_s()), socket_(socket), write_(std::move(write)),
      num_waiting_(std::move(num_waiting)) {}

void Outlet::end_chunk() {
    if (body_.empty()) return;  // an empty chunk would end the response
    char size[20];
    data_.append(size, std::to_chars(size, size + sizeof(size), body_.size(), 16).ptr);
    data_ += "\r\n", data_ += body_, data_ += "\r\n";
    body_.clear();
}

void Outlet::hold(std::string_view data) {
    end_chunk();
    data_ += data;
}

void Outlet::flush() {
    end_chunk();
    if (data_.empty()) return;
    if (is_closed_) return data_.clear();
    written_time = now_s();
    size_t num_sent = 0;
    if (socket_ >= 0 && nb::cast<size_t>(num_waiting_()) == 0) {
        const ssize_t result = send(socket_, data_.data(), data_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (result > 0) num_sent = static_cast<size_t>(result);  // of an error the transport will tell
    }
    data_.erase(0, num_sent);
    if (data_.empty()) return;
    const nb::object write = write_;  // this may be closed meanwhile
    const nb::bytes rest(data_.data(), data_.size());
    data_.clear();
    write(rest);
}

void Outlet::close() {
    is_closed_ = true;
    is_full = false;
    socket_ = -1;
    write_ = num_waiting_ = nb::object();  // they hold the connection, which holds this
}

void bind_outlet(nb::module_& module) {
    nb::class_<Outlet>(module, "Outlet")
        .def(nb::init<int, nb::object, nb::object>(), "socket"_a, "write"_a, "num_waiting"_a)
        .def_rw("is_full", &Outlet::is_full)
        .def_rw("written_time", &Outlet::written_time)
        .def("write", [](Outlet& outlet, const nb::bytes& body) {
            outlet.add({body.c_str(), body.size()});
            outlet.flush();
        }, "body"_a)
        .def("add", [](Outlet& outlet, const nb::bytes& body) { outlet.add({body.c_str(), body.size()}); }, "body"_a)
        .def("hold", [](Outlet& outlet, const nb::bytes& data) { outlet.hold({data.c_str(), data.size()}); }, "data"_a)
        .def("flush", &Outlet::flush)
        .def("close", &Outlet::close);
}

}  // namespace segue
