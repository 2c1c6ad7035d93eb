"""Server-sent events, incrementally and without I/O."""

__all__ = ["EventDecoder"]


class EventDecoder:
    """Bytes in, ``data`` payloads out.

    Chunks may be cut anywhere, also inside a character or between CR and LF. Lines may end with LF, CRLF or CR;
    ``data:`` may or may not be followed by a space; comments and other fields are dropped.
    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
    """

    __slots__ = ("_data", "_line", "_skip_lf")

    def __init__(self) -> None:
        self._line = b""  # bytes after the last line end
        self._data: list[bytes] = []  # data lines of the event that has not ended yet
        self._skip_lf = False  # the last chunk ended with CR: a LF at the start of the next belongs to it

    def feed(self, chunk: bytes) -> list[bytes]:
        """Payloads of the events that ``chunk`` completes."""
        if not chunk:
            return []
        if self._skip_lf or b"\r" in chunk:
            if self._skip_lf and chunk[:1] == b"\n":
                chunk = chunk[1:]
            self._skip_lf = chunk[-1:] == b"\r"
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._line + chunk).split(b"\n")
        self._line = lines.pop()
        payloads: list[bytes] = []
        data = self._data
        for line in lines:
            if line[:5] == b"data:":
                data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if data:
                    payloads.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
            elif line == b"data":
                data.append(b"")
        return payloads

    def close(self) -> list[bytes]:
        """The payload of a last event that no blank line ended.

        The standard drops it, but servers that leave out the last line end exist; what was cut will not parse.
        """
        return self.feed(b"\n\n")
