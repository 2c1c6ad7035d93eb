"""``HF_TGI_DEBUG=1``: requests and answers to stderr."""

import logging

__all__ = ["log_to_stderr"]


def log_to_stderr() -> None:
    """Give the client's logger a handler and the level DEBUG; what it has already stays."""
    logger = logging.getLogger("segue.client")
    logger.setLevel(logging.DEBUG)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        logger.addHandler(handler)
