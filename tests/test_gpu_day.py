"The script for a day with a GPU works without one, at toy sizes: there, nothing runs for the first time"

import json, subprocess, sys
import pytest
from conftest import ROOT, environment

SCRIPT = ROOT / "bench" / "gpu_day.py"


def day(*words):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_every_part_finds_something(tmp_path):
    out = tmp_path / "day.json"
    done = day("--fake", "--out", out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    said = json.loads(out.read_text())
    assert said["fake"] and set(said["parts"]) == {
        "peaks", "attention", "head", "d12", "decode", "tests", "d24", "run"
    }
    for name, part in said["parts"].items():
        assert part["ended"] == "whole" and part["found"], (name, part)
        assert not any("error" in finding for finding in part["found"]), (name, part)
    chosen = [f for f in said["parts"]["attention"]["found"] if f["chosen"]]
    assert {f["window"] for f in chosen} == {0, 16}, "the way that training takes is among the measured ones"
    assert [f for f in said["parts"]["d24"]["found"] if f.get("measured") is False]
    curve = [f["loss"] for f in said["parts"]["run"]["found"] if "loss" in f]
    assert curve[-1] < curve[0] - 1
    first = [f["first_losses"] for f in said["parts"]["run"]["found"] if "first_losses" in f]
    assert len(first) == 1 and len(first[0]) == 20


def test_what_no_time_is_left_for_is_said(tmp_path):
    out = tmp_path / "day.json"
    assert day("--fake", "--minutes", "0.1", "--parts", "peaks", "head", "--out", out).returncode == 0
    parts = json.loads(out.read_text())["parts"]
    assert [part["ended"] for part in parts.values()] == ["not begun: no time was left"] * 2


def test_a_part_that_fails_or_hangs_costs_no_other(monkeypatch):
    sys.path.insert(0, str(ROOT / "bench"))
    import gpu_day

    script = "import sys, time; print('{\"a\": 1}', flush=True); time.sleep(60*(sys.argv[2] == 'head')); 1/0"
    here = ROOT / "bench" / "gpu_day.py"
    assert str(here) == gpu_day.__file__
    made = []

    def popen(command, **more):
        made.append(command)
        return real([sys.executable, "-c", script, *command[2:]], **more)

    real = subprocess.Popen
    monkeypatch.setattr(gpu_day.subprocess, "Popen", popen)
    failed, hung = gpu_day.compute("peaks", 30, True), gpu_day.compute("head", 2, True)
    assert failed["ended"] == "status 1" and "ZeroDivisionError" in failed["error"][-1]
    assert hung["ended"] == "stopped after 2 s" and failed["found"] == hung["found"] == [{"a": 1}]
    assert made[0][2:] == ["--child", "peaks", "--fake"]


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="asks what happens without a GPU")
def test_without_a_gpu_it_says_so():
    done = day()
    assert done.returncode == 1
    assert done.stderr.strip() == "error: here is no GPU; --fake tries the script on a CPU"
