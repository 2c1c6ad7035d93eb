from pathlib import Path

from serving import INFO

from segue.server.metrics import Metrics
from segue.server.siblings import Siblings


def value(text: bytes, name: str) -> float:
    (found,) = [line for line in text.decode().splitlines() if line.startswith(name + " ")]
    return float(found.split()[-1])


async def test_metrics_of_two_processes_are_added_and_neither_is_changed(tmp_path: Path) -> None:
    ours, theirs = Metrics(INFO), Metrics(INFO)
    one, other = Siblings(tmp_path, 0, 2), Siblings(tmp_path, 1, 2)
    ours.request_count.add()
    theirs.request_count.add(2)
    ours.skipped(1)
    theirs.skipped(3)
    ours.request_duration.observe(0.5)
    theirs.request_duration.observe(0.25)
    await other.open(theirs.state)
    try:
        for _ in range(2):
            text = ours.text(await one.states())
            assert value(text, "tgi_request_count") == 3
            assert value(text, "tgi_request_duration_count") == 2
            assert value(text, "tgi_request_duration_sum") == 0.75
            assert value(text, "tgi_request_skipped_tokens_sum") == 4
            assert value(text, 'tgi_request_skipped_tokens{quantile="1"}') == 3
            assert value(text, 'tgi_request_skipped_tokens_bucket{le="+Inf"}') == 2
    finally:
        await other.close()


async def test_a_process_that_does_not_answer_is_left_out(tmp_path: Path) -> None:
    ours = Metrics(INFO)
    ours.request_count.add()
    states = await Siblings(tmp_path, 0, 2).states()
    assert states == []
    assert value(ours.text(states), "tgi_request_count") == 1
