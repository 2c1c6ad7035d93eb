from importlib.metadata import version

from segue._version import __version__
from segue.launcher.environment_report import environment_report


def test_F10_report() -> None:
    lines = environment_report().splitlines()
    assert lines[0] == "Runtime environment:"
    facts = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    assert facts["Segue version"] == __version__
    assert facts["torch"] == version("torch")
    assert {"Platform", "CPU"} <= facts.keys()
    assert {"Target", "Cargo version", "Commit sha", "Docker label", "nvidia-smi", "xpu-smi", "hpu-smi"} <= facts.keys()
