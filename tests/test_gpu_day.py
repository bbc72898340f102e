"The script for a day with a GPU works without one, at toy sizes: there, nothing runs for the first time"

import json, math, subprocess, sys
from dataclasses import replace
import pytest
import warm
from conftest import ROOT, environment

SCRIPT = ROOT / "bench" / "gpu_day.py"
sys.path.insert(0, str(ROOT / "bench"))
import gpu_day


def day(base, *words):
    "The script by copies of one Python, which has torch"
    around = environment(base, OMP_NUM_THREADS=1)
    return subprocess.run(
        [warm.stand_in(around), SCRIPT, *map(str, words)],
        cwd=ROOT,
        env=around,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_every_part_finds_something(tmp_path):
    out = tmp_path / "day.json"
    done = day(tmp_path / "base", "--fake", "--out", out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    said = json.loads(out.read_text())
    assert said["fake"] and list(said["parts"]) == list(gpu_day.PARTS)
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
    for beside in said["parts"]["first"]["found"]:
        assert beside["near"] and len(beside["losses"]) == len(beside["cpu"]) == gpu_day.FAKE.first[0]


def test_the_parts_fit_into_the_day_and_the_longest_is_last():
    seconds = gpu_day.SECONDS
    assert list(gpu_day.PARTS) == list(seconds) and sum(seconds.values()) <= 12 * 60
    assert list(seconds)[-1] == max(seconds, key=seconds.get)


def test_what_no_time_is_left_for_is_said(tmp_path):
    out = tmp_path / "day.json"
    words = ("--fake", "--minutes", "0.1", "--parts", "peaks", "head", "--out", out)
    assert day(tmp_path / "base", *words).returncode == 0
    parts = json.loads(out.read_text())["parts"]
    assert [part["ended"] for part in parts.values()] == ["not begun: no time was left"] * 2


def test_a_part_that_fails_or_hangs_costs_no_other(monkeypatch):
    script = "import sys, time; print('{\"a\": 1}', flush=True); time.sleep(60*(sys.argv[2] == 'head')); 1/0"
    assert str(SCRIPT) == gpu_day.__file__
    made, kept = [], []

    def popen(command, **more):
        made.append(command)
        return real([sys.executable, "-c", script, *command[2:]], **more)

    real = subprocess.Popen
    monkeypatch.setattr(gpu_day.subprocess, "Popen", popen)
    failed = gpu_day.compute("peaks", 30, True, lambda part: kept.append(json.dumps(part)))
    hung = gpu_day.compute("head", 2, True)
    assert failed["ended"] == "status 1" and "ZeroDivisionError" in failed["error"][-1]
    assert hung["ended"] == "stopped after 2 s" and failed["found"] == hung["found"] == [{"a": 1}]
    assert made[0][2:] == ["--child", "peaks", "--fake"]
    before, after = map(json.loads, kept)
    assert before["found"] == [{"a": 1}] and before["ended"] == "not ended when this was written"
    assert after == failed, "a finding is kept when it is there, and again when its part has ended"


def test_what_cannot_be_kept_ends_the_part(monkeypatch):
    "Ctrl-C, or a full disk: nothing is left behind that computes on"
    script = "import time; print('{\"a\": 1}', flush=True); time.sleep(60)"
    started, real = [], subprocess.Popen

    def popen(command, **more):
        started.append(real([sys.executable, "-c", script], **more))
        return started[0]

    def full(part):
        raise OSError("no space left on device")

    monkeypatch.setattr(gpu_day.subprocess, "Popen", popen)
    with pytest.raises(OSError, match="no space"):
        gpu_day.compute("peaks", 30, True, full)
    assert started[0].returncode == -9


def test_rounding_is_told_from_a_mistake():
    "The same steps in bfloat16 are near those in float32; a rate that is 10% too high is not, in either"
    toy = gpu_day.FAKE
    kept = gpu_day.trace(toy)
    assert 0 < kept["apart"]["float32, row by row"] < kept["apart"]["bfloat16"] < 0.01
    wrong = gpu_day.first_losses(toy, "float32", rate=1.1)
    for dtype in gpu_day.ALLOWED:
        assert gpu_day.beside(dtype, gpu_day.first_losses(toy, dtype), kept)["near"], dtype
        assert not gpu_day.beside(dtype, wrong, kept)["near"], dtype


def kept_trace():
    if not gpu_day.TRACE.exists():
        pytest.skip("no CPU trace is kept yet: python bench/gpu_day.py --trace")
    return json.loads(gpu_day.TRACE.read_text())


def test_a_day_without_a_trace_says_how_to_make_one(monkeypatch, tmp_path):
    said, gpu = [], replace(gpu_day.FAKE, device="cuda")
    monkeypatch.setattr(gpu_day, "TRACE", tmp_path / "none.json")
    gpu_day.first(gpu, lambda **finding: said.append(finding))
    (tmp_path / "none.json").write_text(json.dumps(dict(settings=dict(depth=3), losses={})))
    gpu_day.first(gpu, lambda **finding: said.append(finding))
    assert "--trace makes it" in said[0]["error"] and "of other steps" in said[1]["error"]


def test_the_kept_trace_is_whole_and_of_the_steps_of_today():
    import torch

    kept, sizes = kept_trace(), gpu_day.REAL
    assert kept["settings"] == gpu_day.first_settings(sizes)
    assert set(kept["losses"]) == set(gpu_day.TRACED)
    for name, losses in kept["losses"].items():
        assert len(losses) == sizes.first[0] and losses[-1] < losses[0] - 1, name
        assert kept["apart"][name] == gpu_day.apart(losses, kept["losses"]["float32"])
    assert 0 < kept["apart"]["float32, row by row"] < kept["apart"]["bfloat16"] < 0.05
    tok, ((ids, targets, _), *_) = gpu_day.first_batches(sizes)
    config = gpu_day.recipe_config(12, replace(sizes, seq_len=sizes.first[2], vocab_size=tok.vocab_size))
    model, _ = gpu_day.begin(config, sizes, torch.float32, "cpu")
    with torch.no_grad():
        loss = float(model(ids, targets))
    assert math.isclose(loss, kept["losses"]["float32"][0], rel_tol=1e-5), "the model has changed since"


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="asks what happens without a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = day(tmp_path / "base")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: here is no GPU; --fake tries the script on a CPU"
