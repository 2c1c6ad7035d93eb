"""The dialects of hosting platforms: SageMaker's ``/invocations``, Vertex AI's prediction route, KServe's V2."""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel
from typing_extensions import TypeAliasType

from segue.protocol.openai import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Chunk,
    CompletionFinal,
    CompletionRequest,
)
from segue.protocol.tgi import CompatGenerateRequest, GenerateParameters, GenerateResponse, StreamResponse
from segue.protocol.wire import Items, Untagged, WireModel

__all__ = [
    "GenerateVertexInstance",
    "InferenceInput",
    "InferenceOutput",
    "InferenceRequest",
    "InferenceResponse",
    "LiveResponse",
    "MetadataServerResponse",
    "ModelMetadataResponse",
    "RequestedOutput",
    "SagemakerRequest",
    "SagemakerResponse",
    "SagemakerStreamResponse",
    "VertexRequest",
    "VertexResponse",
]

_Sagemaker = Annotated[CompatGenerateRequest | ChatRequest | CompletionRequest, Field(union_mode="left_to_right")]


class SagemakerRequest(RootModel[Annotated[_Sagemaker, Untagged("SagemakerRequest")]]):
    """``inputs``, ``messages`` or ``prompt`` decides which route answers."""


SagemakerResponse = TypeAliasType("SagemakerResponse", list[GenerateResponse] | ChatCompletion | CompletionFinal)
SagemakerStreamResponse = TypeAliasType("SagemakerStreamResponse", StreamResponse | ChatCompletionChunk | Chunk)


class GenerateVertexInstance(WireModel):
    """A prompt and how to continue it."""

    inputs: str = Field(examples=["What is Deep Learning?"])
    parameters: GenerateParameters | None = None


VertexInstance = TypeAliasType(
    "VertexInstance",
    Annotated[
        Annotated[GenerateVertexInstance | ChatRequest, Field(union_mode="left_to_right")], Untagged("VertexInstance")
    ],
)


class VertexRequest(WireModel):
    """Prompts or conversations."""

    instances: Items[VertexInstance]


class VertexResponse(WireModel):
    """One text an instance."""

    predictions: list[str]


_Byte = Annotated[int, Field(ge=0, le=255)]
_Data = Annotated[Items[_Byte] | Items[str], Untagged("Data")]


class InferenceInput(WireModel):
    """A prompt: its UTF-8 bytes as numbers, or one string."""

    name: str
    shape: Items[int]
    datatype: str = Field(examples=["BYTES"])
    data: _Data


class RequestedOutput(WireModel):
    """The name that a text is to have."""

    name: str


class InferenceRequest(WireModel):
    """KServe's request; the n-th output is the continuation of the n-th input."""

    id: str
    parameters: GenerateParameters = Field(default_factory=lambda: GenerateParameters(do_sample=True))
    inputs: Items[InferenceInput]
    outputs: Items[RequestedOutput]


class InferenceOutput(WireModel):
    """A text, in the form that its prompt had."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES"] = "BYTES"
    data: list[Any]


class InferenceResponse(WireModel):
    """KServe's answer."""

    id: str
    outputs: list[InferenceOutput]


class LiveResponse(WireModel):
    """It lives."""

    live: bool


class MetadataServerResponse(WireModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadataResponse(WireModel):
    """What is served."""

    name: str
    version: str
    extensions: list[str]
