"""Holds docs/architecture.md's rules: who may import whom, what stays light, where the environment is read."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
ROOT = SRC / "segue"

ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "protocol": {"core"},
    "text": {"core"},
    "engine": {"core"},
    "server": {"core", "protocol", "text", "engine"},
    "kernels": {"core"},
    "quantization": {"core", "parallel", "kernels"},
    "parallel": {"core"},
    "layers": {"core", "quantization", "parallel", "kernels"},
    "models": {"core", "layers", "quantization", "parallel", "kernels"},
    "sampling": {"core", "kernels"},
    "runner": {"core", "sampling", "models", "layers", "quantization", "parallel", "kernels"},
    "client": {"core", "protocol"},
    "classify": {"core", "client"},
    "integrations": {"core", "client"},
    "benchmark": {"core", "engine"},
    "conformance": {"core", "client", "containers"},
    "containers": {"core", "client"},
    "samples": set(),
    "launcher": {
        "benchmark",
        "client",
        "conformance",
        "containers",
        "core",
        "engine",
        "models",
        "protocol",
        "quantization",
        "runner",
        "samples",
        "server",
        "text",
    },
}
"""Package → the packages of ours that it may import at run time."""

TORCH_FREE = (
    "core",
    "protocol",
    "client",
    "server",
    "text",
    "engine",
    "classify",
    "integrations",
    "containers",
    "benchmark",
)
READS_ENVIRONMENT = {"core/config.py", "client/_environment.py"}


def _sources(package: str = "") -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Module names imported at run time; what stands under ``if TYPE_CHECKING`` does not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    if package.endswith(".py"):
        return  # segue/__init__.py and its like belong to no layer
    allowed = ALLOWED[package] | {package}
    for name in _imports(_parse(path)):
        parts = name.split(".")
        if parts[0] == "segue" and len(parts) > 1 and (ROOT / parts[1]).is_dir():
            assert parts[1] in allowed, f"{package} may not import {name}"


@pytest.mark.parametrize("package", TORCH_FREE)
def test_torch_stays_out(package: str) -> None:
    for path in _sources(package):
        heavy = {name.split(".")[0] for name in _imports(_parse(path))} & {"torch", "transformers"}
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}"


def test_only_named_modules_read_the_environment() -> None:
    reading = re.compile(r"\bos\.(environ|getenv|putenv)\b|from os import .*(environ|getenv)")
    found = {str(p.relative_to(ROOT)) for p in _sources() if reading.search(p.read_text("utf-8"))}
    assert found <= READS_ENVIRONMENT, found - READS_ENVIRONMENT


def test_no_utils_module() -> None:
    assert not [p for p in _sources() if p.stem in ("utils", "util", "helpers", "misc", "common")]


def test_public_names_exist() -> None:
    for path in _sources():
        tree = _parse(path)
        defined = set(_top_level_names(tree))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = ast.literal_eval(node.value)
                lazy = "__getattr__" in defined
                missing = [name for name in listed if name not in defined and not lazy]
                assert not missing, f"{path.relative_to(ROOT)}: __all__ lists {missing}"


def _top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (ast.unparse(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.If):
            yield from _top_level_names(ast.Module(node.body, []))


@pytest.mark.parametrize("module", ["segue", "segue.client", "segue.core.config", "segue.launcher.cli"])
def test_importing_stays_light(module: str) -> None:
    """``pip install segue`` gives a client without torch, and ``segue --help`` is instant."""
    heavy = ("torch", "transformers", "fastapi", "uvicorn", "numpy", "tokenizers")
    code = f"import {module}, sys; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
