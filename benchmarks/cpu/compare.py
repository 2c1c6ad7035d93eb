"""Ours beside the peers, from the lines that ``segue_rows.py`` and the peers' scripts wrote: a table and a picture.

    python benchmarks/cpu/compare.py results.jsonl … [--plot docs/cpu-throughput.svg]

Of several lines for one workload the median counts. ``bound``: the share that one stream reached of a plain read of its
weights, step by step, and a prefill of what arithmetic allows (products of the layers alone, at the rate of the same
run).
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

WORKLOADS = {"decode": "decode_tps", "prefill": "prefill_tps", "throughput": "tput_tps"}
BITS = {"fp32": "float32", "f32": "float32", "q8_0": "int8", "q4_0": "int4", "int8-w8a8": "int8"}

LAYER_PARAMETERS = {"llama-1b": 0.969e9, "opt-125m": 0.085e9}
"""Multiplied with every token of a prompt; the head is with the last one only."""

Rows = dict[tuple[str, str, str], dict[str, dict[str, Any]]]
"""(model, bits, workload) → peer → its median line."""


def read(files: list[Path]) -> Rows:
    found: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if row.get("workload") in WORKLOADS and "streams" not in row:
                bits = BITS.get(row["dtype"], row["dtype"])
                found[row["model"], bits, row["workload"]][row["peer"]].append(row)
    return {
        key: {
            peer: sorted(lines, key=lambda line: line[WORKLOADS[key[2]]])[len(lines) // 2] for peer, lines in by.items()
        }
        for key, by in found.items()
    }


def bound_share(model: str, bits: str, workload: str, line: dict[str, Any]) -> str:
    if workload == "decode" and "of_bound" in line:
        return f"{line['of_bound']:.0%}"
    if workload == "prefill" and model in LAYER_PARAMETERS:
        rate = line["int8_gop_s"] if bits in ("int8", "int4") else line["fp32_gflop_s"]
        return f"{line['prefill_tps'] * 2 * LAYER_PARAMETERS[model] / rate / 1e9:.0%}"
    return ""


def print_table(rows: Rows) -> None:
    print("| model | bits | workload | Segue tok/s | bound | peer | peer tok/s | Segue is |")
    print("|---|---|---|---|---|---|---|---|")
    for (model, bits, workload), by_peer in sorted(rows.items()):
        value = WORKLOADS[workload]
        ours = by_peer.get("segue")
        if ours is None:
            continue
        share = bound_share(model, bits, workload, ours)
        peers = {name: row[value] for name, row in by_peer.items() if name != "segue"} or {"": None}
        for name, rate in sorted(peers.items(), key=lambda item: -(item[1] or 0)):
            told = f"{rate:.1f} | {ours[value] / rate:.2f}×" if rate else "– | –"
            print(f"| {model} | {bits} | {workload} | {ours[value]:.1f} | {share} | {name or '–'} | {told} |")


def plot(files: list[Path], target: Path) -> None:
    """Tokens a second against concurrent streams, from lines that carry ``streams``; a panel a model and bits."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    curves: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if "streams" in row:
                bits = BITS.get(row["dtype"], row["dtype"])
                curves[row["model"], bits][row["peer"]][row["streams"]] = row["tput_tps"]
    figure, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), squeeze=False)
    for panel, ((model, bits), by_peer) in zip(panels[0], sorted(curves.items()), strict=True):
        for peer, points in sorted(by_peer.items(), key=lambda item: item[0] != "segue"):
            streams = sorted(points)
            style = {"linewidth": 2.5, "color": "black"} if peer == "segue" else {"linewidth": 1.2}
            panel.plot(streams, [points[n] for n in streams], marker="o", label=peer, **style)
        panel.set(title=f"{model}, {bits}", xlabel="concurrent streams", xscale="log")
        panel.set_xticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    panels[0][0].set_ylabel("tokens/s, all streams")
    figure.tight_layout()
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path, help="write the picture of throughput by streams here (SVG)")
    given = parser.parse_args()
    print_table(read(given.results))
    if given.plot:
        plot(given.results, given.plot)


if __name__ == "__main__":
    main()
