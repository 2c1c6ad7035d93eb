"""TGI's headers of an answer that is sent at once: how long it took, and how much it is."""

from collections.abc import Sequence

from segue.server.generation import Generation

__all__ = ["longest_headers", "sum_headers", "timing_headers"]


def timing_headers(generation: Generation, compute_type: str) -> dict[str, str]:
    """TGI's headers of an answer that is sent at once."""
    timings = generation.timings()
    return {
        "x-compute-type": compute_type,
        "x-compute-time": repr(timings.total_time),
        "x-compute-characters": str(len(generation.admitted.ask.inputs)),
        "x-total-time": _milliseconds(timings.total_time),
        "x-validation-time": _milliseconds(timings.validation_time),
        "x-queue-time": _milliseconds(timings.queue_time),
        "x-inference-time": _milliseconds(timings.inference_time),
        "x-time-per-token": _milliseconds(timings.time_per_token),
        "x-prompt-tokens": str(generation.num_inputs),
        "x-generated-tokens": str(generation.num_tokens),
    }


def longest_headers(generations: Sequence[Generation], compute_type: str) -> dict[str, str]:
    """Of several choices of one prompt, which ran side by side: the times of the one that ended last."""
    last = max(generations, key=lambda each: each.timings().total_time)
    headers = timing_headers(last, compute_type)
    return {**headers, "x-generated-tokens": str(sum(each.num_tokens for each in generations))}


def sum_headers(headers: Sequence[dict[str, str]]) -> dict[str, str]:
    """Of several generations in one answer; TGI leaves ``x-compute-time`` out there."""
    compute_type, _, *counted = headers[0]
    sums = {name: str(sum(int(each[name]) for each in headers)) for name in counted}
    return {compute_type: headers[0][compute_type], **sums}


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
