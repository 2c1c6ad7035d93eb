import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy.gcs_storage import Storage

DEPLOY = Path(__file__).parents[2] / "deploy"
MODEL = {
    "llm/config.json": b"{}",
    "llm/": b"",
    "llm/model.safetensors": bytes(range(256)) * 20_000,
    "llm/sub folder/ü.txt": b"hello",
    "llm-other/config.json": b"not this one",
}


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage() as storage:
        storage.files = dict(MODEL)
        yield storage


def _fetch(storage: Storage, target: Path, uri: str = "gs://models/llm", **env: str) -> tuple[int, str]:
    env = {"PATH": os.environ["PATH"], "STORAGE_EMULATOR_HOST": f"http://{storage.host}", **env}
    argv = [sys.executable, str(DEPLOY / "fetch_gcs.py"), uri, str(target)]
    result = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EXPECTED = {
    "config.json": b"{}",
    "model.safetensors": MODEL["llm/model.safetensors"],
    "sub folder/ü.txt": b"hello",
}


@pytest.mark.parametrize("uri", ["gs://models/llm", "gs://models/llm/"])
def test_copies_the_folder(storage: Storage, tmp_path: Path, uri: str) -> None:
    assert _fetch(storage, tmp_path / "model", uri)[0] == 0
    assert _content(tmp_path / "model") == EXPECTED


def test_second_call_downloads_only_what_differs(storage: Storage, tmp_path: Path) -> None:
    _fetch(storage, tmp_path)
    storage.downloads.clear()
    (tmp_path / "config.json").write_bytes(b"[]")  # of the same length
    assert _fetch(storage, tmp_path)[0] == 0
    assert storage.downloads == ["llm/config.json"]
    assert _content(tmp_path) == EXPECTED


@pytest.mark.parametrize("failure", [503, 429, 0, -1], ids=["503", "429", "cut short", "spoilt"])
def test_tries_again(storage: Storage, tmp_path: Path, failure: int) -> None:
    storage.files = {"llm/config.json": b"some content"}
    storage.failures = [503, None, failure]  # the list, the list again, the file
    assert _fetch(storage, tmp_path)[0] == 0
    assert _content(tmp_path) == {"config.json": b"some content"}


def test_signs_in_as_the_machines_account(storage: Storage, tmp_path: Path) -> None:
    storage.wants_token = True
    code, output = _fetch(storage, tmp_path / "without")
    assert code == 1
    assert "answers 401" in output
    assert _fetch(storage, tmp_path / "with", GCE_METADATA_HOST=storage.host)[0] == 0
    assert _content(tmp_path / "with") == EXPECTED


@pytest.mark.parametrize(
    ("uri", "text"), [("gs://models/nothing", "holds no files"), ("gs://no-such-bucket/llm", "answers 404")]
)
def test_what_is_not_there(storage: Storage, tmp_path: Path, uri: str, text: str) -> None:
    code, output = _fetch(storage, tmp_path, uri)
    assert code == 1
    assert text in output
    assert _content(tmp_path) == {}


def test_names_cannot_lead_out_of_the_folder(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"llm/../../escaped": b"x"}
    code, output = _fetch(storage, tmp_path / "a" / "b")
    assert code == 1
    assert "leads out" in output
    assert _content(tmp_path) == {}


def test_entry_point_serves_the_copy(storage: Storage, tmp_path: Path) -> None:
    launcher = tmp_path / "text-generation-launcher"
    launcher.write_text('#!/bin/sh\necho "MODEL_ID=$MODEL_ID PORT=$PORT $*"\n')
    launcher.chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(tmp_path),
        "AIP_STORAGE_URI": "gs://models/llm",
        "AIP_HTTP_PORT": "7080",
        "STORAGE_EMULATOR_HOST": f"http://{storage.host}",
    }
    argv = [DEPLOY / "google-entrypoint.sh", "--json-output"]
    result = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"MODEL_ID={tmp_path}/model PORT=7080 --json-output"
    assert _content(tmp_path / "model") == EXPECTED
