"The runner of the tests: whatever keeps a group from passing is not green"

import importlib.util, json, statistics, sys
from pathlib import Path
import pytest
from conftest import ROOT

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


@pytest.fixture
def timings(monkeypatch):
    "The program .ci/timings.py as a module"
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("timings", ROOT / ".ci" / "timings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAID = """== house ==
7 passed in 1.00s
== notebooks ==
Success.
08_attention.ipynb: 41 secs
index.ipynb: 0 secs
== lectures ==
08_attention.ipynb: 12 secs
== pytest ==
============ slowest 8 durations ============
2.50s call     tests/test_a.py::test_one[08_attention.ipynb: 9 secs]
0.25s setup    tests/test_a.py::test_two
10.00s call     tests/test_b.py::test_three
test_b.py: 10 secs
test_a.py: 3 secs
all tests passed in 28:10: house 0:01
"""


def test_seconds_are_read_from_what_the_tests_say(timings, tmp_path):
    (tmp_path / "said").write_text(SAID)
    status, found = timings.measure(["bash", "-c", f"cat {tmp_path / 'said'} >&2; sleep 0.3; exit 3"])
    assert status == 3 and list(found["parts"]) == ["before", "house", "notebooks", "lectures", "pytest"]
    assert found["parts"]["pytest"] >= 0.3 and found["seconds"] < 20
    assert found["notebooks"] == {"08_attention.ipynb": 41, "index.ipynb": 0}
    assert found["lectures"] == {"08_attention.ipynb": 12}
    assert found["files"] == {"test_b.py": 10, "test_a.py": 3}
    slowest = [(test["seconds"], test["phase"], test["test"]) for test in found["slowest_tests"]]
    assert slowest == [
        (10.0, "call", "tests/test_b.py::test_three"),
        (2.5, "call", "tests/test_a.py::test_one[08_attention.ipynb: 9 secs]"),
        (0.25, "setup", "tests/test_a.py::test_two"),
    ]


def test_every_notebook_is_short(timings):
    "In the kept run of all tests, in which two notebooks run at a time"
    if not timings.OUT.exists():
        pytest.skip("no times of a whole test command are kept yet: python .ci/timings.py")
    seconds = json.loads(timings.OUT.read_text())["notebooks"]
    untimed = {path.name for path in (ROOT / "nbs").glob("*.ipynb")} - set(seconds)
    assert not untimed, f"measure again, with {untimed}: python .ci/timings.py"
    long = {name: took for name, took in seconds.items() if took >= 90}
    assert not long and statistics.median(seconds.values()) < 45
