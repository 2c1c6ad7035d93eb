"""The CPU image: built from deploy/Dockerfile on a Debian base, run, asked, stopped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from containers.places import Place, open_place
from deploy.gcs_storage import Storage

from segue.containers import Container, ContainerError, preset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
IMAGE = "localhost/segue-test-cpu"
SAMPLE = ROOT / "src/segue/samples/chat"
BASE_IMAGE = "localhost/segue-test-base:latest"


@pytest.fixture(scope="module")
def built(engine: Any) -> Any:
    """The engine, with the image and its platforms' variants."""
    for target in ("", "sagemaker", "google"):
        engine.images.build(
            path=str(ROOT),
            dockerfile="deploy/Dockerfile",
            buildargs={"BASE_IMAGE": BASE_IMAGE},
            target=target,
            tag=f"{IMAGE}:{target or 'latest'}",
            rm=True,
        )
    return engine


@pytest.fixture
def place(built: Any, engine_url: str) -> Iterator[Place]:
    place = open_place("docker", engine_url)
    yield place
    for record in place.runtime.records():
        place.runtime.remove(record.id)
    place.runtime.close()


def _container(place: Place, model_id: str | None, **fields: Any) -> Container:
    defaults = {"image": IMAGE, "name": "segue-test-image", "secrets": ()}
    spec = preset("segue", model_id, **{**defaults, **fields})
    return Container(spec, runtime=place.runtime, environ={"API_KEY": "a-key"})


def _generate(url: str) -> str:
    body = {"inputs": "Once upon a", "parameters": {"max_new_tokens": 8}}
    response = httpx.post(f"{url}/generate", json=body, timeout=60)
    response.raise_for_status()
    text: str = response.json()["generated_text"]
    return text


def test_up_generate_logs_down(place: Place, built: Any) -> None:
    container = _container(place, "sample-chat", cpus=1, memory="3g", options={"max_total_tokens": 128})
    assert place.names() == []
    with container:
        assert place.names() == ["segue-test-image"]
        assert container.status().is_ready
        with container.client() as client:
            assert client.info().max_total_tokens == 128
            whole = client.generate("Once upon a", max_new_tokens=8)
            stream = client.generate_stream("Once upon a", max_new_tokens=8)
            assert stream.final().generated_text == whole.generated_text
            assert whole.usage.completion_tokens == 8
        log = container.logs(1000)
        assert "Connected" in log
        assert "Invalid hostname" not in log
        environ = built.containers.get(container.id).exec_run("cat /proc/1/environ").output.decode().split("\0")
        assert {"OMP_NUM_THREADS=1", "PORT=80", "HF_HOME=/data"} <= set(environ)
    assert place.names() == []


def test_key_from_the_environment_is_asked_for(place: Place) -> None:
    with _container(place, "sample-chat", secrets=("API_KEY",)) as container:
        body = {"inputs": "x", "parameters": {"max_new_tokens": 1}}
        assert httpx.post(f"{container.url}/generate", json=body).status_code == 401
        with container.client() as client:
            assert client.generate("x", max_new_tokens=1).usage.completion_tokens == 1


def test_model_that_is_not_there(place: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        _container(place, "./no-such-model").start(timeout=120)
    assert caught.value.kind == "exited"
    assert "is neither a folder nor a name on the Hub" in str(caught.value)
    assert place.names() == []


def test_model_in_a_mounted_folder(place: Place) -> None:
    with _container(place, "/data/chat", volumes=(f"{SAMPLE}:/data/chat:ro",)) as container:
        assert _generate(container.url)


def test_sagemaker(place: Place) -> None:
    env = {"HF_MODEL_ID": "sample-chat"}
    container = _container(place, None, image=f"{IMAGE}:sagemaker", args=("serve",), env=env, container_port=8080)
    with container:
        assert httpx.get(f"{container.url}/ping").status_code == 200
        assert _generate(container.url)


def test_google_copies_the_model_first(place: Place) -> None:
    with Storage() as storage:
        storage.files = {f"llm/{path.name}": path.read_bytes() for path in SAMPLE.iterdir()}
        env = {"AIP_STORAGE_URI": "gs://models/llm", "STORAGE_EMULATOR_HOST": f"http://{storage.host}"}
        with _container(place, None, image=f"{IMAGE}:google", env=env, network="host") as container:
            assert "Copied" in container.logs(1000)
            assert _generate(container.url)
