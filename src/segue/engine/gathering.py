"""How long tokens wait for others, to be made and sent together."""

from dataclasses import dataclass

__all__ = ["GATHERING", "Gathering"]


@dataclass(frozen=True, slots=True)
class Gathering:
    """A message wakes the server and the kernel's part of each stream's connection, which take a processor from the
    engine's threads for 0.1 ms, and 0.015 ms a stream. So the more requests there are, the longer their steps wait."""

    seconds: float
    seconds_a_request: float = 0.0
    most_seconds: float = float("inf")

    def of(self, num_requests: int) -> float:
        """Seconds."""
        return min(self.most_seconds, self.seconds + self.seconds_a_request * num_requests)


GATHERING = Gathering(0.010, 0.001, 0.040)
"""What served requests get."""
