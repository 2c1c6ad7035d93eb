import math

import pytest
from fakes import engine_info, make_request

from segue.core.limits import RouterLimits
from segue.core.output import EngineStep, FinishReason, RequestOutput, StepStats, TokenOutput
from segue.core.request import AbortRequests, SamplingParams
from segue.engine.config import EngineConfig
from segue.engine.ipc import Hello, Message, Refusal, RequestGroup, Shutdown, decode, encode

SAMPLING = SamplingParams(max_new_tokens=4, temperature=0.7, seed=2**64 - 1, stop=("\n", "é😀"), ignore_eos=True)
OUTPUT = RequestOutput(
    request_id=2**62 - 1,
    tokens=(TokenOutput(5, -0.25), TokenOutput(7, -math.inf, ((7, -0.5), (9, -math.inf)))),
    finish_reason=FinishReason.EOS_TOKEN,
    prompt_logprobs=(None, -1.5),
    num_cached_tokens=16,
    scheduled_time=12.5,
)


@pytest.mark.parametrize(
    "message",
    [
        make_request(2**62, range(5), encoder=[1, 2], eos=[0, 7], salt="tenant", sampling=SAMPLING),
        make_request(1),
        AbortRequests((1, 2**62)),
        EngineStep(outputs=(), stats=StepStats()),
        EngineStep(
            outputs=(OUTPUT, RequestOutput(request_id=1, error="boom")), stats=StepStats(step_s=0.5, num_waiting=3)
        ),
        engine_info(EngineConfig(num_blocks=8)),
        Hello(),
        Hello(RouterLimits(max_total_tokens=7, waiting_served_ratio=1.2)),
        Refusal("no"),
        RequestGroup((make_request(1), make_request(2))),
        Shutdown(),
    ],
)
def test_a_message_survives_the_frame(message: Message) -> None:
    copy = decode(bytes(encode(message)))
    assert copy == message
    assert type(copy) is type(message)


@pytest.mark.parametrize(
    "frame", [b"", b"\xff", bytes(encode(Hello()))[:1], bytes(encode(make_request(1)))[:-1], b"\x00\x80"]
)
def test_a_broken_frame_is_a_value_error(frame: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(frame)


def test_a_field_of_the_wrong_type_is_a_value_error() -> None:
    frame = bytes(encode(AbortRequests((1,))))
    with pytest.raises(ValueError, match="Expected `array`"):
        decode(frame[:-2] + b"\x01")
