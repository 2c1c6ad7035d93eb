"""What a request looks like when it arrives, and what comes back."""

from segue.client import TGIError
from segue.conformance.check import CheckSkipped, collect, expect
from segue.conformance.faults import Answer
from segue.conformance.lab import NUM_TOKENS, Lab, fails_with

__all__ = ["CHECKS"]


async def test_endpoint(lab: Lab) -> None:
    """It is well, says what it serves, and generates."""
    async with lab.client() as client:
        expect(await client.health(), "/health does not answer with success")
        if not lab.target.is_hosted:
            info = await client.info()
            expect(info.model_id, "/info names no model")
            expect(info.model_id == lab.target.model_id, f"/info names {info.model_id}, not {lab.target.model_id}")
        result = await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS)
    expect(result.details is not None, "the answer has no details although they were asked for")
    assert result.details is not None
    num_tokens = result.details.generated_tokens
    expect(1 <= num_tokens <= NUM_TOKENS, f"{num_tokens} tokens were generated, 1 to {NUM_TOKENS} were due")
    listed = len(result.details.tokens)
    expect(listed == num_tokens, f"{num_tokens} tokens were generated, {listed} are listed")
    said = {"length", "eos_token", "stop_sequence"}
    expect(result.finish_reason in said, f"finish_reason is {result.finish_reason}")


async def test_endpoint_params(lab: Lab) -> None:
    """The request has its inputs, and the server minds the parameters."""
    async with lab.client() as client:
        short = await client.generate(lab.prompt, max_new_tokens=2, top_n_tokens=2)
        seeded = [
            await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, do_sample=True, temperature=1.3, seed=7)
            for _ in range(2)
        ]
    expect(lab.proxy.generations[0].body["inputs"] == lab.prompt, "the prompt did not arrive as it was given")
    expect(short.details and short.details.generated_tokens <= 2, "max_new_tokens is not minded")
    assert short.details is not None
    num_top = [len(top) for top in short.details.top_tokens]
    expect(len(num_top) == short.details.generated_tokens and min(num_top) >= 2, f"top_n_tokens=2 lists {num_top}")
    texts = [result.generated_text for result in seeded]
    expect(texts[0] == texts[1], "the same seed gave two texts")


async def post_request(lab: Lab) -> None:
    """A request made by hand, and its answer as it came."""
    path = "/" if lab.target.is_hosted else "/generate"
    async with lab.client() as client:
        body = {"inputs": lab.prompt, "parameters": {"max_new_tokens": 2}}
        answer = await client.request("POST", path, json=body)
    parsed = answer.json[0] if isinstance(answer.json, list) else answer.json
    expect(isinstance(parsed, dict) and "generated_text" in parsed, "the answer has no generated_text")
    expect(lab.proxy.generations[0].body == body, "the body did not arrive as it was given")


async def post_request_headers(lab: Lab) -> None:
    """Key, type of the content and what is accepted."""
    async with lab.client() as client:
        await client.generate(lab.prompt, max_new_tokens=1, extra_headers={"X-Segue-Check": "yes"})
    [seen] = lab.proxy.generations
    expect(seen.headers.get("authorization") == f"Bearer {lab.keys[0]}", "Authorization is not the endpoint's key")
    expect(
        seen.headers.get("content-type") == "application/json", f"Content-Type is {seen.headers.get('content-type')}"
    )
    expect(seen.headers.get("x-segue-check") == "yes", "a header of the caller's did not arrive")


async def request_id_tracking(lab: Lab) -> None:
    """The caller's id goes with every attempt and comes back; ids that nobody gave are all different."""
    async with lab.client() as client:
        lab.proxy.inject(Answer(503))
        result = await client.generate(lab.prompt, max_new_tokens=1, request_id="segue-check-1")
        attempts = [seen.request_id for seen in lab.proxy.generations]
        expect(attempts == ["segue-check-1"] * 2, f"the ids that arrived are {attempts}")
        expect(result.response.request_id == "segue-check-1", f"the result's id is {result.response.request_id}")
        counts = [seen.headers.get("x-retry-count") for seen in lab.proxy.generations]
        expect(counts == [None, "1"], f"X-Retry-Count was {counts}")
        lab.proxy.inject(Answer(401))
        with fails_with(TGIError) as caught:
            await client.generate(lab.prompt, max_new_tokens=1, request_id="segue-check-2")
        expect(caught[0].request_id == "segue-check-2", f"the error's id is {caught[0].request_id}")
        await lab.generate_many(client, 8)
    ids = [seen.request_id for seen in lab.proxy.generations[3:]]
    expect(all(ids) and len(set(ids)) == 8, "equal requests have equal ids")


async def format_request_simple(lab: Lab) -> None:
    """A prompt alone."""
    async with lab.client() as client:
        await client.generate(lab.prompt, max_new_tokens=1, details=False)
    body = lab.proxy.generations[0].body
    expect(body["inputs"] == lab.prompt, "inputs is not the prompt")
    expect(set(body) <= {"inputs", "parameters"}, f"the body has {sorted(body)}")


async def format_request_params(lab: Lab) -> None:
    """Every parameter arrives under its name; what was not given does not."""
    given = {
        "max_new_tokens": 4,
        "do_sample": True,
        "temperature": 0.9,
        "top_k": 20,
        "top_p": 0.9,
        "typical_p": 0.95,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "seed": 3,
        "stop": ["###"],
        "truncate": 50,
        "top_n_tokens": 2,
    }
    async with lab.client() as client:
        result = await client.generate(lab.prompt, return_full_text=None, **given)  # type: ignore[call-overload]
    sent = lab.proxy.generations[0].body["parameters"]
    differing = sorted(name for name, value in given.items() if sent.get(name) != value)
    expect(not differing, f"{', '.join(differing)} did not arrive as given")
    expect("return_full_text" not in sent, "a parameter of None was sent")
    expect(result.details.seed == 3, f"the answer's seed is {result.details.seed}, not 3")


async def parameter_formatting(lab: Lab) -> None:
    """The seed system's own example: max_new_tokens 100, temperature 0.8, top_p 0.95."""
    given = {"max_new_tokens": 100, "temperature": 0.8, "top_p": 0.95}
    async with lab.client() as client:
        await client.generate(lab.prompt, **given)  # type: ignore[call-overload]
    sent = lab.proxy.generations[0].body["parameters"]
    expect(given.items() <= sent.items(), f"the parameters that arrived are {sent}")


async def endpoint_handler_creation(lab: Lab) -> None:
    """A client bound to one endpoint: whatever it is asked goes there."""
    pool = lab.pool(lab.endpoint(0, id="a"), lab.endpoint(1, id="b"))
    async with lab.client(pool) as client:
        handler = client.with_options(endpoint="b")
        for _ in range(3):
            result = await handler.generate(lab.prompt, max_new_tokens=1)
            expect(result.response.endpoint == "b", f"{result.response.endpoint} was asked")
    expect({seen.key for seen in lab.proxy.generations} == {lab.keys[1]}, "another key arrived")


async def internal_test(lab: Lab) -> None:
    """The server's own counts and answers agree: the same question gives the same answer, however it is asked."""
    if lab.target.is_hosted:
        raise CheckSkipped("the hosted API has no /tokenize")
    async with lab.client() as client:
        tokens = await client.tokenize(lab.prompt)
        whole = await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS)
        async with await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, stream=True) as stream:
            streamed = await stream.final()
        both = await lab.generate_many(client, 2)
    expect(len(tokens) > 0, "/tokenize gives no tokens")
    expect(
        whole.usage.prompt_tokens in (None, len(tokens)),
        f"{whole.usage.prompt_tokens} tokens, /tokenize: {len(tokens)}",
    )
    expect(streamed.generated_text == whole.generated_text, "streamed, the text is another")
    expect(all(each.generated_text == whole.generated_text for each in both), "with neighbours, the text is another")


CHECKS = collect(
    endpoint_handler_creation,
    test_endpoint,
    test_endpoint_params,
    post_request,
    post_request_headers,
    request_id_tracking,
    format_request_simple,
    format_request_params,
    parameter_formatting,
    internal_test,
)
