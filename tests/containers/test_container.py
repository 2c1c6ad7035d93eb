"""The life of a server, on both runtimes: what is started is ready, told apart, stopped, and never left behind."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from containers.places import Place

from segue.containers import Container, ContainerError, ContainerSpec
from segue.core.errors import ConfigError

TESTS = Path(__file__).parents[1]
TOKEN = "hf_abcdefgh"


def _given(container: Container) -> dict[str, object]:
    return httpx.get(f"{container.url}/given").json()  # type: ignore[no-any-return]


def _run_elsewhere(place: Place, *lines: str) -> "subprocess.CompletedProcess[str]":
    """Another interpreter with the same ``place``."""
    paths = [str(TESTS.parent / "src"), str(TESTS)]
    program = [f"import sys; sys.path[:0] = {paths}", "from containers.places import open_place"]
    program += [f"place = open_place({place.kind!r}, {place.where!r})", *lines]
    return subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=False)


def _error(place: Place, behaviour: str, **fields: object) -> ContainerError:
    """What starting it raises; nothing is left behind by it."""
    with pytest.raises(ContainerError) as caught:
        place.container(behaviour, environ={"HF_TOKEN": TOKEN}, secrets=("HF_TOKEN",), **fields).start(timeout=30)
    assert place.names() == []
    return caught.value


def test_up_and_down(place: Place) -> None:
    container = place.container(options={"max_total_tokens": 64})
    assert container.status().state == "absent"
    container.start(timeout=30)
    status = container.status()
    assert (status.state, status.is_ready, status.model_id) == ("running", True, "my/model")
    with container.client() as client:
        assert client.info().max_total_tokens == 64
    assert "Connected" in container.logs()
    assert container.logs(1) == "Connected"
    argv = _given(container)["argv"]
    assert argv[:4] == ["--model-id", "my/model", "--max-total-tokens", "64"]  # type: ignore[index]
    container.stop()
    assert place.names() == []
    assert container.status().state == "absent"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{status.url.removeprefix('http://')}/health")  # type: ignore[union-attr]


def test_stop_is_orderly_and_twice_is_once(place: Place) -> None:
    container = place.container().start(timeout=30)
    container.stop(remove=False)
    assert container.logs(1) == "Stopped in order"
    assert container.status().state == "exited"
    container.stop()
    container.stop()
    assert place.names() == []


def test_stop_before_start_is_nothing(place: Place) -> None:
    container = place.container()
    container.stop()
    with pytest.raises(ContainerError) as caught:
        _ = container.url
    assert caught.value.kind == "not_found"


def test_server_that_does_not_listen_to_sigterm_is_killed(place: Place) -> None:
    container = place.container("deaf").start(timeout=30)
    url = container.url
    container.stop(grace=1)
    assert place.names() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_same_name_again(place: Place) -> None:
    container = place.container()
    first = container.start(timeout=30).id
    container.stop()
    assert container.start(timeout=30).id != first
    container.stop(remove=False)
    with place.container() as again:  # what has ended makes room
        assert again.id != first
    container.stop()
    assert place.names() == []


def test_restart_after_it_ended_by_itself(place: Place) -> None:
    container = place.container("dies later").start(timeout=30)
    first = container.id
    until = time.monotonic() + 20
    while container.status().state == "running" and time.monotonic() < until:
        time.sleep(0.05)
    assert container.status().exit_code == 7
    assert container.start(timeout=30).id != first
    container.stop()


def test_second_start_only_waits(place: Place) -> None:
    with place.container() as container:
        assert container.start(timeout=30).id == container.id
        assert len(place.names()) == 1


def test_name_of_a_running_server_is_taken(place: Place) -> None:
    with place.container() as container:
        with pytest.raises(ContainerError) as caught:
            place.container().start(timeout=30)
        assert caught.value.kind == "name_conflict"
        assert container.status().is_ready


def test_leftover_of_a_dead_process_is_replaced(place: Place) -> None:
    """A process that was killed could not clean up; the next run with the same name must not stumble over it."""
    killed = _run_elsewhere(
        place, "place.container().start(timeout=30)", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert killed.returncode == -9, killed.stderr
    assert place.names() == ["segue-test"]
    with place.container() as container:
        assert container.status().is_ready
    assert place.names() == []


def test_end_of_the_interpreter_stops_it(place: Place) -> None:
    ended = _run_elsewhere(
        place,
        "place.container().start(timeout=30)",
        "place.container(name='segue-test-kept', keep=True).start(timeout=30)",
        "raise RuntimeError('the user\\'s own mistake')",
    )
    assert "the user's own mistake" in ended.stderr
    assert place.names() == ["segue-test-kept"]


def test_error_inside_with_stops_it(place: Place) -> None:
    with pytest.raises(RuntimeError, match="mine"), place.container():
        raise RuntimeError("mine")
    assert place.names() == []


def test_crash_during_start_ends_the_wait_and_shows_why(place: Place) -> None:
    started = time.monotonic()
    error = _error(place, "crash")
    assert error.kind == "exited"
    assert error.exit_code == 1
    assert "Error: ShardCannotStart" in str(error)
    assert time.monotonic() - started < 25, "it waited for the timeout"


def test_last_words_that_are_written_in_pieces(place: Place) -> None:
    """Podman's own ``tail`` loses such a line."""
    assert _error(place, "last words in pieces").logs.endswith("\nError: ShardFailed")


def test_number_of_log_lines(place: Place) -> None:
    with place.container() as container:
        assert container.logs(0) == ""
        assert container.logs(1) == "Connected"
        assert container.logs(2) == container.logs(100) == "Serving my/model\nConnected"


def test_no_secret_in_errors_and_logs(place: Place) -> None:
    error = _error(place, "crash")
    assert "with token [redacted]" in error.logs
    assert TOKEN not in repr(error) + str(error)


def test_secret_reaches_the_server_not_its_argv(place: Place) -> None:
    container = place.container(environ={"HF_TOKEN": TOKEN, "OTHER": "x"}, secrets=("HF_TOKEN", "ABSENT"))
    with container:
        given = _given(container)
        assert given["env"]["HF_TOKEN"] == TOKEN  # type: ignore[index]
        assert "ABSENT" not in given["env"]  # type: ignore[operator]
        assert TOKEN not in repr(given["argv"])


@pytest.mark.parametrize(
    ("behaviour", "kind"), [("out of memory", "oom"), ("port in use", "port_in_use"), ("wrong model", "wrong_model")]
)
def test_kind_of_failure(place: Place, behaviour: str, kind: str) -> None:
    assert _error(place, behaviour).kind == kind


def test_wrong_model_names_both(place: Place) -> None:
    assert "serves 'another/model', not 'my/model'" in str(_error(place, "wrong model"))


def test_timeout(place: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        place.container("never ready").start(timeout=0.7)
    assert caught.value.kind == "timeout"
    assert "Serving my/model" in caught.value.logs
    assert place.names() == []


def test_port_in_use(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        error = _error(place, "", port=other.getsockname()[1])
    assert error.kind == "port_in_use"


def test_given_port(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with place.container(port=port) as container:
        assert container.url == f"http://127.0.0.1:{port}"


def test_attach_from_elsewhere(place: Place) -> None:
    with place.container(keep=True) as container:
        attached = Container.attach("segue-test", runtime=place.runtime)
        assert attached.url == container.url
        assert attached.status() == container.status()
        assert "Connected" in attached.logs()
        attached.stop()
        assert container.status().state == "absent"
    with pytest.raises(ContainerError) as caught:
        Container.attach("segue-test", runtime=place.runtime)
    assert caught.value.kind == "not_found"


def test_ctrl_c_while_waiting_removes_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    container = place.container("never ready")
    wait = place.runtime.wait

    # In the pause: between two lines of the HTTP client a signal leaves the standard library a socket to warn of.
    def press(id: str, seconds: float) -> None:
        monkeypatch.setattr(place.runtime, "wait", wait)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(place.runtime, "wait", press)
    with pytest.raises(KeyboardInterrupt):
        container.start(timeout=60)
    assert place.names() == []


def test_status_of_one_that_ended(place: Place) -> None:
    container = place.container("crash").start(wait=False)
    with pytest.raises(ContainerError):
        container.wait_ready(30)
    status = container.status()
    assert (status.state, status.is_ready, status.exit_code) == ("exited", False, 1)
    container.stop()


def test_bad_name_is_refused_at_once() -> None:
    with pytest.raises(ConfigError):
        ContainerSpec(image="segue", name="not a name")
