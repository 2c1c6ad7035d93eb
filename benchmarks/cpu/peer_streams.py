"""A peer's throughput at several numbers of streams: lines for ``compare.py --plot``.

    python benchmarks/cpu/peer_streams.py --peerbench peerbench --model opt-125m --results streams.jsonl \\
        -- python {peerbench}/bench_ov.py opt-125m int8 cb

Runs the peer's own script on copies of its folder whose list of concurrent requests is cut to the first 1, 2, 4, 8, 16.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def run_with(peerbench: Path, model: str, streams: int, command: list[str]) -> list[str]:
    """The lines that the peer's script wrote, each with its number of streams."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "peerbench")
        shutil.copytree(peerbench, copy, copy_function=shutil.copyfile)
        os.chmod(copy, 0o755)
        workloads = json.loads((copy / "workloads.json").read_text())
        workloads[model]["throughput"] = workloads[model]["throughput"][:streams]
        (copy / "workloads.json").write_text(json.dumps(workloads))
        results = Path(folder, "results.jsonl")
        environment = {**os.environ, "RESULTS": str(results), "ONLY": "throughput"}
        subprocess.run([part.format(peerbench=copy) for part in command], env=environment, check=True)
        return [json.dumps({**json.loads(line), "streams": streams}) for line in results.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peerbench", type=Path, required=True, help="the folder of the peers' scripts")
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", default="1,2,4,8,16")
    parser.add_argument("--results", type=Path, required=True, help="append the lines to this file")
    parser.add_argument("command", nargs="+", help="the peer's script and its arguments; {peerbench} is its folder")
    given = parser.parse_args()
    for streams in given.streams.split(","):
        for line in run_with(given.peerbench, given.model, int(streams), given.command):
            print(line, flush=True)
            with given.results.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
