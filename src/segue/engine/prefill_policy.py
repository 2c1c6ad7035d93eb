"""When new prompts may interrupt generation, for an engine that does not mix both in a step (TGI without chunking)."""

__all__ = ["PrefillPolicy"]


class PrefillPolicy:
    """TGI's rule (spec 7.2): enough wait beside what runs, or generation went on for long enough.

    After each step of new prompts comes at least one of generation, so that neither starves the other.
    """

    BACKPRESSURE = "backpressure"
    WAIT_EXCEEDED = "wait_exceeded"

    def __init__(self, waiting_served_ratio: float, max_waiting_tokens: int) -> None:
        self._ratio = waiting_served_ratio
        self._max_waiting_tokens = max_waiting_tokens
        self._num_decode_steps = 0
        """Since new prompts were let in."""

    def reason_to_admit(self, num_waiting: int, num_running: int) -> str | None:
        """Why the waiting may come in now, by TGI's names of the reasons; None: not yet."""
        if num_waiting == 0 or self._num_decode_steps == 0:
            return None
        if self._num_decode_steps >= self._max_waiting_tokens:
            return self.WAIT_EXCEEDED
        return self.BACKPRESSURE if num_waiting >= int(num_running * self._ratio) else None

    def admitted(self) -> None:
        """A step took new prompts."""
        self._num_decode_steps = 0

    def decoded(self) -> None:
        """A step generated."""
        self._num_decode_steps += 1
