"""Tables of ratios, and the results file."""

import datetime
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

__all__ = ["machine", "print_table", "record"]

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, versions, and its read bandwidth measured now."""
    import numpy as np
    import torch

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    data = torch.from_numpy(np.ones(64 * 1024 * 1024, dtype=np.float32))
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = max(best, data.nbytes / (time.perf_counter() - started))
    return {"cpu": cpu, "torch": torch.__version__, "read_gb_per_s": round(best / 1e9, 1)}


def print_table(rows: list[dict[str, Any]], *, ours: str) -> None:
    """One line a row; ``vs``: our tokens a second over this row's."""
    mine = {(r["model"], r["streams"]): r["tokens_per_s"] for r in rows if r["engine"] == ours}
    print(f"\n{'model':20} {'streams':>7}  {'engine':28} {'tokens/s':>9} {'TTFT ms':>9} {'ITL ms':>8} {'ours vs':>8}")
    for r in rows:
        ratio = mine[r["model"], r["streams"]] / r["tokens_per_s"]
        print(
            f"{r['model']:20} {r['streams']:7}  {r['engine']:28} {r['tokens_per_s']:9.1f} {r['ttft_ms']:9.1f} "
            f"{r['itl_ms']:8.2f} {ratio:7.2f}x"
        )


def record(benchmark: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Append the rows to ``results/<benchmark>.jsonl``, keyed by commit and machine."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    stamp = {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(), **facts}
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{benchmark}.jsonl").open("a") as file:
        for row in rows:
            rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            file.write(json.dumps({**stamp, **rounded}) + "\n")
