"""Where OpenAI's and TGI's words differ on OpenAI's routes: which of them this server says (``--openai-dialect``).

|                                | tgi                       | mixed (default)               | openai             |
|--------------------------------|---------------------------|-------------------------------|--------------------|
| ``id``                         | empty                     | ``chatcmpl-…``, ``cmpl-…``    | as mixed           |
| ``presence_penalty``           | chat: repetition_penalty  | OpenAI's                      | OpenAI's           |
|                                | of it plus 2; else unused |                               |                    |
| ``error`` of a failed request  | a string                  | object; ``error_type`` stays  | as mixed           |
| a body that cannot be read     | plain text                | plain text                    | an error object    |
| ``finish_reason``: stop string | ``stop_sequence``         | ``stop_sequence``             | ``stop``           |
| … calls of functions           | ``stop``                  | ``tool_calls``                | as mixed           |
| ``id`` of a call               | ``0``; counted in streams | nine digits                   | ``call_…``         |
| message of calls               | no ``content``; functions | ``content`` is null or the    | as mixed           |
|                                | have a ``description``    | text before the calls         |                    |
| pieces of calls in a stream    | each with id and type     | id, type and name once        | as mixed           |
| how functions are called       | TGI's forced JSON         | the model's own format where  | as mixed           |
|                                |                           | its template has one          |                    |
| … in a completion's stream     | "" then ``eos_token``     | "" then ``eos_token``         | null then ``stop`` |
| text of special tokens there   | sent                      | sent                          | left out           |

The default keeps what programs around TGI compare with (finish reasons) and mends what none can depend on.
"""

import secrets
from typing import Any

from segue.core.errors import RequestError
from segue.core.output import FinishReason

__all__ = ["OpenAIWords"]


class OpenAIWords:
    """One server's choice."""

    def __init__(self, dialect: str) -> None:
        self.is_tgi = dialect == "tgi"
        self.is_openai = dialect == "openai"
        self.unfinished: str | None = None if self.is_openai else ""
        """``finish_reason`` of a streamed completion that goes on."""

    def new_id(self, prefix: str) -> str:
        return "" if self.is_tgi else prefix + secrets.token_hex(12)

    def new_call_id(self) -> str:
        """Of a call of a function. Digits, because ``text_generation`` reads ids as integers."""
        return f"call_{secrets.token_hex(12)}" if self.is_openai else str(10**8 + secrets.randbelow(9 * 10**8))

    def finish_reason(self, reason: FinishReason | None, *, has_calls: bool = False) -> str:
        """Of an answer at once, and of a chat's stream."""
        assert reason is not None, "the generation has not ended"
        if has_calls and not self.is_tgi and reason is not FinishReason.LENGTH:
            return "tool_calls"
        if reason is FinishReason.EOS_TOKEN or (self.is_openai and reason is FinishReason.STOP_SEQUENCE):
            return "stop"
        return reason.value

    def completion_stream_finish_reason(self, reason: FinishReason | None) -> str:
        """TGI does not translate it there."""
        assert reason is not None, "the generation has not ended"
        return self.finish_reason(reason) if self.is_openai else reason.value

    def error(self, error: RequestError) -> dict[str, Any]:
        """The body of a failed request. ``error_type`` is what TGI's clients choose their exception by."""
        if self.is_tgi:
            return {"error": str(error), "error_type": error.error_type}
        return {"error": _error_object(str(error), error.status, error.error_type), "error_type": error.error_type}

    def error_event(self, error: RequestError) -> dict[str, Any]:
        """In a stream. TGI says 422 whatever the error is; its clients read the message."""
        event = {"message": str(error), "http_status_code": 422}
        return {"error": event if self.is_tgi else _error_object(str(error), error.status, error.error_type) | event}

    def body_error(self, text: str, status: int) -> dict[str, Any] | None:
        """Of a body that cannot be read; None: ``text`` itself."""
        return {"error": _error_object(text, status, None)} if self.is_openai else None


def _error_object(message: str, status: int, code: str | None) -> dict[str, Any]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": None, "code": code}
