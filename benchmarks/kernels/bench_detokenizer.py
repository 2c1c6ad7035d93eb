"""Microseconds a token of the incremental detokenizer, beside tokenizers' DecodeStream and TGI's window algorithm.

    python benchmarks/kernels/bench_detokenizer.py MODEL_FOLDER [--tokens 2000] [--results FILE]

With ``--results`` one JSON line a provider is appended to the file.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers.decoders import DecodeStream

from segue.text.detokenizer import IncrementalDetokenizer
from segue.text.tokenizer import Tokenizer

TEXT = "Once upon a time, there was a small dog. It said: «Déjà vu!» 日本語 🦊\n"


def segue(folder: Path, ids: list[int]) -> Callable[[], str]:
    tokenizer = Tokenizer.from_folder(folder)

    def run() -> str:
        push = IncrementalDetokenizer(tokenizer, ids[:5]).push
        return "".join([push(token_id) for token_id in ids])

    return run


def decode_stream(folder: Path, ids: list[int]) -> Callable[[], str]:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def run() -> str:
        stream = DecodeStream(ids[:5], skip_special_tokens=False)
        return "".join([stream.step(backend, token_id) or "" for token_id in ids])

    return run


def window(folder: Path, ids: list[int]) -> Callable[[], str]:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def run() -> str:
        all_ids, texts, prefix, read = ids[:5], [], 0, 5
        for token_id in ids:
            all_ids.append(token_id)
            before = backend.decode(all_ids[prefix:read], skip_special_tokens=False)
            after = backend.decode(all_ids[prefix:], skip_special_tokens=False)
            if len(after) > len(before) and not after.endswith("\ufffd"):
                texts.append(after[len(before) :])
                prefix, read = read, len(all_ids)
        return "".join(texts)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()

    encoded = Tokenizer.from_folder(options.folder).encode(TEXT, add_special_tokens=False)
    ids = (encoded * (options.tokens // len(encoded) + 1))[: options.tokens]
    for provider in (segue, decode_stream, window):
        run = provider(options.folder, ids)
        run()
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        us_per_token = min(seconds) / len(ids) * 1e6
        print(f"{provider.__name__:>14}  {us_per_token:8.3f} us/token")
        if options.results is not None:
            record = {"benchmark": "detokenizer", "provider": provider.__name__, "model": options.folder.name}
            record |= {"tokens": len(ids), "us_per_token": round(us_per_token, 4)}
            with options.results.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
