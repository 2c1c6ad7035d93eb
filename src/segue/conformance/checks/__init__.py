"""The checks of a live server, in the order in which they are made."""

from segue.conformance.checks import chat, multiplexing, queueing, requests, retries, streams

__all__ = ["STANDARD"]

STANDARD = (
    *requests.CHECKS,
    *streams.CHECKS,
    *chat.CHECKS,
    *retries.CHECKS,
    *queueing.CHECKS,
    *multiplexing.CHECKS,
)
