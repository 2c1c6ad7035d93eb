import json
import os
import sys
import time
from pathlib import Path

import pytest
from containers.places import Place, open_place

from segue.containers import ContainerError
from segue.containers.process_runtime import ProcessRuntime
from segue.containers.runtime import start_time


@pytest.fixture
def processes(tmp_path: Path) -> Place:
    return open_place("process", str(tmp_path / "processes"))


def _given_env(place: Place, **fields: object) -> dict[str, str]:
    import httpx

    with place.container(**fields) as container:
        env: dict[str, str] = httpx.get(f"{container.url}/given").json()["env"]
        return env


def test_killed_by_the_kernel_is_out_of_memory(processes: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        processes.container("killed").start(timeout=30)
    assert caught.value.kind == "oom"
    assert caught.value.exit_code == -9


def test_workers_of_a_crashed_launcher_are_ended(processes: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        processes.container("leaves a worker").start(timeout=30)
    worker = int(caught.value.logs.partition("worker ")[2].split()[0])
    until = time.monotonic() + 20
    while start_time(worker) is not None and time.monotonic() < until:  # a signal takes a moment
        time.sleep(0.02)
    assert start_time(worker) is None


def test_program_that_is_not_here(processes: Place) -> None:
    with pytest.raises(ContainerError) as caught:
        processes.container(command=("/no/such/program",)).start()
    assert caught.value.kind == "command_missing"
    assert processes.names() == []


def test_handle_of_an_earlier_run_does_not_stop_the_next(processes: Place) -> None:
    first = processes.container(keep=True).start(timeout=30)
    old_id = first.id or ""
    first.stop()
    with processes.container() as second:
        processes.runtime.stop(old_id, 1.0)
        processes.runtime.remove(old_id)
        assert second.status().is_ready


def test_recycled_process_id_is_not_touched(processes: Place) -> None:
    """A record of before a reboot may name a process id that is another program's now: here, the test's own."""
    home = Path(processes.where) / "old"
    home.mkdir(parents=True)
    entry = {"name": "old", "pid": os.getpid(), "started": "1", "command": "segue serve", "url": "http://127.0.0.1:1"}
    (home / "record.json").write_text(json.dumps(entry | {"labels": {"segue.container": "1", "segue.kept": "true"}}))
    (record,) = processes.runtime.records()
    state = processes.runtime.state(record.id)
    assert state is not None
    assert state.status == "exited"
    processes.runtime.remove(record.id)
    assert processes.names() == []


def test_options_of_this_process_are_not_the_servers(processes: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_TOTAL_TOKENS", "7")
    monkeypatch.setenv("HF_TOKEN", "hf_ambient")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    env = _given_env(processes, env={"MINE": "1"})
    assert "MAX_TOTAL_TOKENS" not in env
    assert "HF_TOKEN" not in env
    assert (env["HF_HUB_OFFLINE"], env["MINE"]) == ("1", "1")


@pytest.mark.parametrize(("gpus", "visible"), [(None, ""), (2, "0,1"), (("3",), "3"), ("all", "5")])
def test_gpus(processes: Place, monkeypatch: pytest.MonkeyPatch, gpus: object, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert _given_env(processes, gpus=gpus)["CUDA_VISIBLE_DEVICES"] == visible


def test_what_needs_a_container_is_said(processes: Place, caplog: pytest.LogCaptureFixture) -> None:
    with processes.container(cpus=2.0, memory="4g"):
        pass
    assert "runs without cpus, memory; that needs a container" in caplog.text


def test_default_command_is_this_interpreters_segue(tmp_path: Path) -> None:
    place = open_place("process", str(tmp_path))
    with pytest.raises(ContainerError) as caught:
        place.container(command=None, model_id="./no-such-model", env={"PYTHONPATH": os.pathsep.join(sys.path)}).start()
    assert caught.value.kind == "exited"
    assert "is neither a folder nor a name on the Hub" in str(caught.value)


def test_folder_is_made_when_needed(tmp_path: Path) -> None:
    runtime = ProcessRuntime(tmp_path / "not yet")
    assert runtime.records() == []
    assert runtime.find("x") is None
    assert not (tmp_path / "not yet").exists()
