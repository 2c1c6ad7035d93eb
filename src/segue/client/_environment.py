"""The environment variables of the client: the only place here that knows them.

TGI_BASE_URL                         where requests go if the program does not say
TGI_API_KEY                          its key
HF_API_KEY, HF_API_TOKEN             the key where TGI_API_KEY is not set
HF_TOKEN                             the same, but given to Hugging Face's own hosts and to this machine only:
                                     it is everybody's ambient login, not meant for any server
HF_MODEL_ID                          the model
HF_API_KEY_1, HF_MODEL_ID_1, …       further keys, each an endpoint of its own
HF_TGI_DEBUG                         1: log requests and answers to stderr, keys removed
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from segue.client.endpoint import Endpoint

__all__ = ["Environment", "read_environment"]

HOSTED_URL = "https://api-inference.huggingface.co"
_HUB_DOMAINS = (".huggingface.co", ".huggingface.cloud", ".hf.space", ".hf.co")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Environment:
    base_url: str | None = None
    model: str | None = None
    debug: bool = False
    numbered: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    """(key, model) of each numbered pair."""
    _key: str | None = field(default=None, repr=False)
    _hub_token: str | None = field(default=None, repr=False)

    def key_for(self, url: str) -> str | None:
        host = urlsplit(url).hostname or ""
        if self._key is None and (f".{host}".endswith(_HUB_DOMAINS) or host in _LOOPBACK):
            return self._hub_token
        return self._key

    def endpoints(self) -> list[Endpoint]:
        """One for each numbered key, else one for the plain variables; empty if nothing says where to go."""
        if self.numbered:
            url = self.base_url or HOSTED_URL
            return [
                Endpoint(url, id=f"key_{number}", api_key=key, model=model or self.model)
                for number, (key, model) in enumerate(self.numbered, 1)
                if self.base_url or model or self.model
            ]
        if self.base_url is None and self.model is None:
            return []
        url = self.base_url or HOSTED_URL
        return [Endpoint(url, api_key=self.key_for(url), model=self.model)]


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """From ``variables``, or from the process's environment. Empty variables count as not set."""
    variables = os.environ if variables is None else variables

    def first(*names: str) -> str | None:
        return next((variables[name] for name in names if variables.get(name)), None)

    numbered: list[tuple[str, str | None]] = []
    while key := first(f"HF_API_KEY_{len(numbered) + 1}"):
        numbered.append((key, first(f"HF_MODEL_ID_{len(numbered) + 1}")))
    return Environment(
        base_url=first("TGI_BASE_URL"),
        model=first("HF_MODEL_ID"),
        debug=(first("HF_TGI_DEBUG") or "0").lower() not in ("0", "false", "no"),
        numbered=tuple(numbered),
        _key=first("TGI_API_KEY", "HF_API_KEY", "HF_API_TOKEN"),
        _hub_token=first("HF_TOKEN"),
    )
