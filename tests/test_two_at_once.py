"The runner of the tests: whatever keeps a group from passing is not green"

import sys
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import two_at_once

PASSES = "def test_fine():\n    pass\n"
FAILS = "def test_wrong():\n    assert False\n"
KILLED = "import os, signal\ndef test_gone():\n    os.kill(os.getpid(), signal.SIGKILL)\n"


def status_of(monkeypatch, tmp_path, *texts):
    "The exit status of groups of one file each"
    groups = []
    for i, text in enumerate(texts):
        path = tmp_path / f"test_number_{i}.py"
        path.write_text(text)
        groups.append([path])
    monkeypatch.setattr(two_at_once, "groups", lambda: list(groups))
    monkeypatch.setattr(sys, "argv", ["two_at_once.py"])
    with pytest.raises(SystemExit) as e:
        two_at_once.main()
    return e.value.code


def test_all_pass(monkeypatch, tmp_path):
    assert status_of(monkeypatch, tmp_path, PASSES, PASSES, PASSES) == 0


@pytest.mark.parametrize("bad", [FAILS, KILLED], ids=["fails", "killed"])
@pytest.mark.parametrize("first", [True, False])
def test_one_bad_group_is_enough(monkeypatch, tmp_path, bad, first):
    assert status_of(monkeypatch, tmp_path, *((bad, PASSES) if first else (PASSES, PASSES, bad))) == 1


def test_a_group_that_was_never_run(monkeypatch, tmp_path, capsys):
    def no_room(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(two_at_once, "run", no_room)
    monkeypatch.setattr(two_at_once.threading, "excepthook", lambda _: None)
    assert status_of(monkeypatch, tmp_path, PASSES, PASSES) == 1
    assert "was never finished: test_number_0" in capsys.readouterr().out


def test_every_file_of_tests_is_in_one_group():
    files = [path for group in two_at_once.groups() for path in group]
    assert len(files) == len(set(files)) == len(list(two_at_once.HERE.glob("test_*.py"))) - 1
