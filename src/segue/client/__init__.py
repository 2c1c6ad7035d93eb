"""Clients for Segue, for Text Generation Inference, and for whatever speaks their API."""

from segue.client._async import AsyncStream
from segue.client._environment import Environment, read_environment
from segue.client._sync import Stream
from segue.client.async_client import AsyncClient
from segue.client.breaker import BreakerPolicy, BreakerState
from segue.client.client import Client
from segue.client.endpoint import Endpoint
from segue.client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    CircuitOpenError,
    GenerationError,
    IncompleteGenerationError,
    IncompleteStreamError,
    InvalidResponseError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QueueFullError,
    QueueTimeoutError,
    RateLimitError,
    ServerError,
    ShardNotReadyError,
    TGIError,
    ValidationError,
)
from segue.client.options import CallOptions
from segue.client.pool import EndpointPool
from segue.client.retry import RetryPolicy
from segue.client.stats import EndpointStats, PoolStats

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "BreakerPolicy",
    "BreakerState",
    "CallOptions",
    "CircuitOpenError",
    "Client",
    "Endpoint",
    "EndpointPool",
    "EndpointStats",
    "Environment",
    "GenerationError",
    "IncompleteGenerationError",
    "IncompleteStreamError",
    "InvalidResponseError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PoolStats",
    "QueueFullError",
    "QueueTimeoutError",
    "RateLimitError",
    "RetryPolicy",
    "ServerError",
    "ShardNotReadyError",
    "Stream",
    "TGIError",
    "ValidationError",
    "read_environment",
]
