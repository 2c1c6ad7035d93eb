"""Chat templates as checkpoints bring them, seen in what ``/chat_tokenize`` makes of a conversation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from contract.live import fake_server, model_server
from tiny_model import write_tiny_llama

MESSAGES = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "so"},
]

# What TGI's own engine for templates gives for them, or refuses.
RENDERED = [
    ("{% for m in messages %}[{{ m['role'] }}:{{ m.content }}]{% endfor %}", "[user:hi][assistant:yes][user:so]"),
    ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>hi</s>"),
    ("{% if add_generation_prompt %}go{% endif %}", "go"),
    ("{{ messages[0]['content'][0]['text'] }}", "hi"),
    ("{% for m in messages[::-1] %}{{ m.content }} {% endfor %}", "so yes hi "),
    ("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "hi"),
    ("{% for m in messages %}{% if m.role != 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}", "hiso"),
    ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hi"),
    ("{{ messages[0].content.upper().strip() }} {{ 'a,b'.split(',')[1] }}", "HI b"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
    ("{{ messages[1].items() | list | length }} {{ messages[0] | tojson }}", '2 {"role": "user", "content": "hi"}'),
    ("{%- if tools is none or tools is not defined %}none{% endif %}", "none"),
    ("{{ messages[0].content\n   | trim }}", "hi"),
]
REFUSED = [
    ("{{ raise_exception('only users') }}", "Template error: syntax error: only users (in <string>:1)"),
    ("a\n{{ raise_exception('line two') }}", "Template error: syntax error: line two (in <string>:2)"),
]


def ask(server: Any, **fields: Any) -> Any:
    return server.post("/chat_tokenize", {"messages": MESSAGES, **fields})


@pytest.mark.parametrize(("template", "prompt"), RENDERED, ids=[row[1] for row in RENDERED])
def test_C2_templates(template: str, prompt: str, tmp_path: Path) -> None:
    with fake_server(tmp_path, chat_template=template) as server:
        reply = ask(server)
    assert reply.status_code == 200, reply.text
    assert reply.json()["templated_text"] == prompt
    assert "".join(token["text"] for token in reply.json()["tokenize_response"]) == prompt


def test_C2_strftime_now(tmp_path: Path) -> None:
    with fake_server(tmp_path, chat_template="{{ strftime_now('%Y') }} {{ strftime_now('%d %b') }}") as server:
        assert re.fullmatch(r"2\d{3} \d{2} [A-Z][a-z]{2}", ask(server).json()["templated_text"])


@pytest.mark.parametrize(("template", "text"), REFUSED)
def test_C2_raise_exception(template: str, text: str, tmp_path: Path) -> None:
    with fake_server(tmp_path, chat_template=template) as server:
        for path in ("/chat_tokenize", "/v1/chat/completions"):
            for stream in (False, True):
                reply = server.post(path, {"messages": MESSAGES, "stream": stream})
                assert (reply.status_code, reply.json()["error_type"]) == (422, "template_error")
                error = reply.json()["error"]
                assert (error if isinstance(error, str) else error["message"]) == text


def test_C2_a_model_without_a_template(tmp_path: Path) -> None:
    with fake_server(tmp_path, chat_template=None) as server:
        reply = ask(server)
    error = {"error": "Template error: template not found", "error_type": "template_error"}
    assert (reply.status_code, reply.json()) == (422, error)


def says(name: str) -> str:
    return name + " {{ bos_token }}{{ messages[0].content }}{{ eos_token }}"


def served_template(folder: Path, **options: Any) -> str:
    with model_server(folder, **options) as server:
        reply = ask(server)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["templated_text"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without a chat template."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_tiny_llama(folder)
    set_tokenizer_config(folder)
    return folder


def set_tokenizer_config(folder: Path, **fields: Any) -> None:
    settings = {"bos_token": "<s>", "eos_token": "</s>", **fields}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_template(folder: Path, source: str) -> None:
    """Into one of the files that may hold a template; it says the file's name."""
    if source == "tokenizer_config.json":
        set_tokenizer_config(folder, chat_template=says(source))
    elif source.endswith(".json"):
        (folder / source).write_text(json.dumps({"chat_template": says(source)}))
    else:
        (folder / source).write_text(says(source))


# TGI's order, and last what TGI does not read.
SOURCES = ["chat_template.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"]


@pytest.mark.parametrize("first", range(3), ids=SOURCES[:3])
def test_C2_which_file_counts(first: int, folder: Path) -> None:
    for source in SOURCES[first:]:
        write_template(folder, source)
    assert served_template(folder) == f"{SOURCES[first]} <s>hi</s>"


def test_C2_tokenizer_config_path_takes_the_place_of_the_models(folder: Path, tmp_path: Path) -> None:
    write_template(folder, "tokenizer_config.json")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": says("other")}))
    assert served_template(folder, tokenizer_config_path=other) == "other <s>hi</s>"


def test_C2_tokens_may_be_objects(folder: Path) -> None:
    token = {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    set_tokenizer_config(folder, eos_token={"__type": "AddedToken", **token}, chat_template=says("objects"))
    assert served_template(folder) == "objects <s>hi</s>"


def test_C2_C3_of_named_templates_the_default(folder: Path) -> None:
    named = [{"name": "rag", "template": says("rag")}, {"name": "default", "template": says("default")}]
    set_tokenizer_config(folder, chat_template=named)
    assert served_template(folder) == "default <s>hi</s>"


def test_C3_a_template_in_a_file_of_its_own(folder: Path) -> None:
    write_template(folder, "chat_template.jinja")
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "rag.jinja").write_text(says("rag"))
    assert served_template(folder) == "chat_template.jinja <s>hi</s>"
