"""Result files: what was found, and what is expected to be found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.conformance.check import Results, verdict
from segue.core.errors import ConfigError

__all__ = ["CONTAINER_FILE", "STANDARD_FILE", "Difference", "Store"]

STANDARD_FILE = "hf_tgi_test_results.json"
CONTAINER_FILE = "hf_tgi_container_test_results.json"


@dataclass(frozen=True, slots=True)
class Difference:
    check: str
    expected: str
    """Success, Failed or Skipped; missing: the check is new."""
    found: str
    """missing: the check was not made."""


@dataclass(frozen=True, slots=True)
class Store:
    """``collected_results`` and ``expected_results`` in ``folder``."""

    folder: Path

    def collect(self, file: str, results: Results) -> Path:
        return _write(self.folder / "collected_results" / file, results)

    def expect(self, file: str, results: Results) -> Path:
        """Only ever called because somebody asked for it: results that bless themselves prove nothing."""
        return _write(self.folder / "expected_results" / file, results)

    def expected(self, file: str) -> Results | None:
        """None: nobody has said what is expected. Raises ConfigError."""
        path = self.folder / "expected_results" / file
        try:
            expected = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"{path} is no JSON: {error}") from None
        if not isinstance(expected, dict):
            raise ConfigError(f"{path} holds no results")
        return expected


def differences(expected: Mapping[str, object], found: Mapping[str, object]) -> list[Difference]:
    """By verdict: why a check failed, and when it was made, are no differences."""
    pairs = ((name, _verdict(expected, name), _verdict(found, name)) for name in {**expected, **found})
    return [Difference(name, was, is_now) for name, was, is_now in pairs if was != is_now]


def _verdict(results: Mapping[str, object], name: str) -> str:
    return verdict(results[name]) if name in results else "missing"


def _write(path: Path, results: Results) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path
