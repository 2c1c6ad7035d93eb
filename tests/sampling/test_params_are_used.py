"""No sampling parameter is accepted and ignored."""

import ast
from dataclasses import fields
from pathlib import Path

import segue.sampling
from segue.core.request import SamplingParams

USED_ELSEWHERE = {
    "max_new_tokens": "server/admission.py makes it StopCriteria.max_new_tokens",
    "do_sample": "SamplingParams.is_sampling, which choose.py reads",
    "seed": "server/admission.py draws one for None; the sampler gets SamplingRow.seed",
    "stop": "text/stop_strings.py",
    "prompt_logprobs": "runner/model_runner.py",
}


def fields_read_in_sampling():
    """Names in ``<something>.params.<name>``."""
    return {
        node.attr
        for path in Path(segue.sampling.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "params"
    }


def test_every_field_is_read_here_or_known_to_be_used_elsewhere():
    names = {field.name for field in fields(SamplingParams)}
    read = fields_read_in_sampling() & names
    assert names - read - USED_ELSEWHERE.keys() == set()
    assert USED_ELSEWHERE.keys() - names == set(), "the table names fields that are gone"
    assert USED_ELSEWHERE.keys() & read == set(), "the table names fields that sampling reads"
