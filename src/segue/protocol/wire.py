"""Base classes and number types of the wire.

Requests are read as TGI's serde reads them: unknown fields are ignored, ``1.0`` is no integer, ``1`` is a float,
``0`` is no bool, numbers keep the range of their Rust type.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["F32", "I32", "U32", "U64", "Expected", "Items", "Untagged", "Usize", "WireModel"]

_F32_MAX = 3.4028234663852886e38


class WireModel(BaseModel):
    """An object of the wire."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """One error of type ``expected`` with the Rust type's name in place of pydantic's own errors."""

    rust_type: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source),
            custom_error_type="expected",
            custom_error_message="expected {rust_type}",
            custom_error_context={"rust_type": self.rust_type},
        )


@dataclass(frozen=True, slots=True)
class Untagged:
    """One error of type ``untagged`` in place of one for each member of a union."""

    enum: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source),
            custom_error_type="untagged",
            custom_error_message="data did not match any variant of untagged enum {enum}",
            custom_error_context={"enum": self.enum},
        )


@dataclass(frozen=True, slots=True)
class _FirstErrorOnly:
    """pydantic's own FailFast cannot be hashed, so not be in a union."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return {**schema, "fail_fast": True}


def _integer(bits: int, signed: bool, rust_type: str, schema_format: str | None) -> Any:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    extra: Any = {} if schema_format is None else {"format": schema_format}
    return Annotated[int, Field(ge=low, le=high, json_schema_extra=extra), Expected(rust_type)]


Item = TypeVar("Item")
Items = Annotated[list[Item], _FirstErrorOnly()]
"""A list in a request. One error is enough: two megabytes of wrong items would give a million."""

U32 = _integer(32, False, "u32", "int32")
U64 = _integer(64, False, "u64", "int64")
Usize = _integer(64, False, "usize", None)
I32 = _integer(32, True, "i32", "int32")
F32 = Annotated[
    float,
    Field(ge=-_F32_MAX, le=_F32_MAX, allow_inf_nan=False, json_schema_extra={"format": "float"}),
    Expected("f32"),
]
