from pathlib import Path

from segue.server.permits import OwnPermits, SharedPermits


def test_own_permits_run_out_and_come_back() -> None:
    permits = OwnPermits(3)
    assert permits.take(2)
    assert not permits.take(2)
    permits.give_back(2)
    assert permits.take(3)


def test_what_one_process_holds_another_cannot_take(tmp_path: Path) -> None:
    a, b = (SharedPermits(tmp_path / "permits", index, 2, 3) for index in range(2))
    assert a.take(2)
    assert not b.take(2)
    assert b.take(1)
    assert not a.take(1)
    a.give_back(2)
    assert b.take(2)
