"Limits of a start: refused where its plan is above them, stopped when they are reached, no part of the run"

import re, subprocess, sys, time
from dataclasses import asdict, replace

import pytest
from conftest import ROOT, door, environment, lines_of, one_line, run_module

from nanochat import runs, scaling
from nanochat.runs import LIMITS, as_options, read_options, read_plan, refuse_changes, run_dir, write_plan
from nanochat.scaling import (
    SMOKE,
    Limits,
    cost_on_gpus,
    describe_scale,
    left_to_do,
    plan_tier,
    recipe_plan,
    what_fits,
)

FULL = plan_tier("full")


def planned(capsys, **given):
    "Status, output and errors of `python -m nanochat.scaling --dry_run`"
    try:
        scaling.main.__wrapped__(dry_run=True, **given)
        status = 0
    except SystemExit as e:
        status = e.code
    said = capsys.readouterr()
    return status, said.out, said.err


def checkpoint(base, run, stage, step):
    (base / "runs" / run / stage / f"step_{step}").mkdir(parents=True)


# --- before anything is made ---


def test_a_plan_above_a_limit_is_refused_with_what_would_fit(capsys):
    status, out, err = planned(capsys, tier="full", max_dollars=40.0)
    assert status == 2 and out.strip() == describe_scale(FULL), "the plan is shown all the same"
    (line,) = err.splitlines()
    assert line.startswith("error: the run is planned to take 2.") and "$55 on 8 x h100" in line
    assert "more than --max_dollars 40: --depth 22 (" in line and " would fit; with --slices" in line
    status, _, err = planned(capsys, tier="full", max_dollars=60.0, max_hours=2.0)
    assert status == 2 and "more than --max_hours 2:" in err and "max_dollars" not in err
    assert planned(capsys, tier="full", max_dollars=60.0, max_hours=3.0)[::2] == (0, "")


def test_what_is_said_to_fit_fits_and_no_more_would():
    words = what_fits(Limits(hours=1.0), FULL)
    depth = int(words.split("--depth ")[1].split()[0])
    assert cost_on_gpus(plan_tier("full", depth=depth)).hours <= 1
    assert cost_on_gpus(plan_tier("full", depth=depth + 2)).hours > 1
    assert "--gpus" not in words, "fewer GPUs take longer"
    quarter = plan_tier("full", gpus=2)
    assert "--gpus 8" in what_fits(Limits(hours=3.0), quarter)


def test_a_longer_plan_in_slices_is_not_refused(capsys):
    given = dict(tier="full", max_hours=1.0, max_dollars=60.0, slices=True)
    status, out, err = planned(capsys, **given)
    assert status == 0 and out.strip() == describe_scale(FULL)
    (line,) = err.splitlines()
    assert line.startswith("the run is planned to take 2.")
    assert line.endswith(": 3 starts or more, each with --max_hours 1")
    scaling.main.__wrapped__(allowed=True, **given)
    assert capsys.readouterr().out == "1.0 --max_hours 1\n"
    assert planned(capsys, tier="full", max_hours=3.0, slices=True) == (0, out, ""), "one start is enough"
    assert planned(capsys, tier="laptop", max_dollars=5.0, slices=True)[0] == 2, "no price, no slices"


@pytest.mark.parametrize("door", ["train", "plan", "preflight"])
def test_a_slice_has_a_length(door):
    with pytest.raises(runs.Misuse, match="--slices.* --max_hours or --max_dollars"):
        read_options(door, ["--slices"])


def test_what_is_left_is_what_counts(base, capsys):
    plan = recipe_plan(FULL)
    write_plan(run_dir("far"), plan)
    assert set(left_to_do(run_dir("far"), plan).values()) == {1.0}
    assert planned(capsys, run="far", max_dollars=30.0)[0] == 2
    checkpoint(base, "far", "base", plan.base.steps)
    left = left_to_do(run_dir("far"), plan)
    assert left == dict(tokenizer=1, base=0, mid=1, sft=1, rl=1, evaluation=1)
    assert planned(capsys, run="far", max_dollars=30.0)[0] == 0, "pretraining is paid for"
    status, _, err = planned(capsys, run="far", max_dollars=8.0)
    assert status == 2 and "what is left of the run is planned to take 0." in err
    assert "--depth" not in err, "a run that has begun keeps its depth"
    for stage in ("mid", "sft"):
        checkpoint(base, "far", stage, plan.stage(stage).steps)
    checkpoint(base, "far", "rl", plan.rl.steps // 2)
    assert left_to_do(run_dir("far"), plan)["rl"] == pytest.approx(0.5, abs=0.01)


def test_a_limit_that_cannot_hold_is_named(capsys):
    for given, words in (
        (dict(tier="laptop"), "no price is known for tier laptop; give --max_hours"),
        (dict(tier="gpu", card="4090"), "no price is known for card 4090; give --max_hours"),
    ):
        status, _, err = planned(capsys, max_dollars=5.0, **given)
        assert status == 2 and f"--max_dollars can't be applied: {words}" in err and err.count("\n") == 1
    status, _, err = planned(capsys, max_hours=5.0, tier="gpu", card="mps", depth=4)
    assert status == 0 and "isn't published" in err and err.count("\n") == 1
    status, _, err = planned(capsys, max_dollars=5.0, tier="full", rehearse=True)
    assert status == 0 and "a rehearsal costs nothing" in err and err.count("\n") == 1


def test_hours_hold_for_every_tier(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "matmul_flops", lambda dtype, device: 1e9)
    status, _, err = planned(capsys, tier="laptop", depth=8, max_hours=0.5)
    assert status == 2 and "planned to take at least" in err and "more than --max_hours 0.5" in err
    assert "--tier smoke" in err
    assert planned(capsys, tier="smoke", max_hours=5.0)[0] == 0


def test_a_dear_start_leaves_nothing_behind(base):
    done = door("--tier", "full", "--depth", "4", "--max_hours", "0.1", base=base)
    one_line(done, "planned to take", "--max_hours 0.1", "no depth of this recipe would fit", status=2)
    assert len(done.stderr.splitlines()) == 1 and not base.exists()


@pytest.mark.parametrize("value", ["0", "-2", "many", "nan", "1e9"])
def test_a_limit_is_a_number_above_0(base, value):
    done = door("plan", "--max_hours", value)
    one_line(done, "--max_hours", "a number above 0", status=2)


# --- they are not the run's ---


def test_limits_are_no_settings(base):
    given = read_options("train", ["--tier", "smoke", "--max_hours", "2", "--max_dollars", "3", "--slices"])
    assert as_options(given, *LIMITS) == ["--tier", "smoke"], "the walk is not told"
    write_plan(run_dir("one"), SMOKE)
    refuse_changes(run_dir("one"), SMOKE, vars(given))
    assert not set(LIMITS) & set(asdict(SMOKE)) and not set(LIMITS) & set(SMOKE.options())


def answers(monkeypatch, words, status=0):
    "Stand in for chapter 13's process; what it is asked"
    asked = []

    def ask(command, **more):
        asked.append(command)
        return subprocess.CompletedProcess(command, status, words)

    monkeypatch.setattr(runs.subprocess, "run", ask)
    return asked


def test_a_start_tells_its_steps_until_when(monkeypatch):
    options = read_options("train", ["--tier", "full", "--run", "a", "--max_dollars", "48"])
    asked = answers(monkeypatch, "2.0 --max_dollars 48\n")
    variables = runs.within_limits("a", options)
    assert float(variables["NANOCHAT_DEADLINE"]) == pytest.approx(time.time() + 7200, abs=5)
    assert variables["NANOCHAT_LIMIT"] == "2 h (--max_dollars 48)"
    assert asked[0][2:] == "nanochat.scaling --allowed --run a --tier full --max_dollars 48.0".split()
    sliced = read_options("train", ["--tier", "full", "--run", "a", "--max_dollars", "48", "--slices"])
    asked = answers(monkeypatch, "2.0 --max_dollars 48\n")
    assert runs.within_limits("a", sliced)["NANOCHAT_LIMIT"] == variables["NANOCHAT_LIMIT"]
    assert asked[0][-3:] == ["--max_dollars", "48.0", "--slices"]
    answers(monkeypatch, "", status=2)
    with pytest.raises(SystemExit) as e:
        runs.within_limits("a", options)
    assert e.value.code == 2
    assert runs.within_limits("a", read_options("train", ["--tier", "full"])) == {}


def test_what_chapter_13_answers(capsys):
    scaling.main.__wrapped__(allowed=True, tier="full", max_dollars=60.0, max_hours=9.0)
    assert capsys.readouterr().out == "2.5 --max_dollars 60\n"
    scaling.main.__wrapped__(allowed=True, tier="full", rehearse=True, max_dollars=60.0)
    assert capsys.readouterr().out.strip() == ""


# --- while it runs ---


def test_no_step_begins_when_the_time_is_up(base):
    write_plan(run_dir("short"), SMOKE)
    late = dict(NANOCHAT_DEADLINE=time.time() - 1, NANOCHAT_LIMIT="2 h (--max_hours 2)")
    done = door("--run", "short", base=base, **late)
    assert done.returncode == 75, done.stderr
    words = "stopped after 2 h (--max_hours 2) in step 'tokenizer'; the same command goes on from there"
    assert done.stderr.splitlines()[-1] == words
    assert not (run_dir("short") / "tokenizer").exists() and read_plan(run_dir("short")) == SMOKE


def test_a_slice_ends_and_the_same_command_goes_on(base):
    "A million steps, four seconds at a time: refused as one start, begun as a slice"
    base_stage = replace(SMOKE.base, steps=10**6, save_every=10**6)
    write_plan(run_dir("sliced"), replace(SMOKE, compile="off", base=base_stage))
    done = door("--run", "sliced", "--max_hours", "0.001", "--slices", base=base)
    assert done.returncode == 75, done.stderr
    first, *_, last = done.stderr.splitlines()
    assert "left of the run is planned to take at least" in first and " starts or more" in first
    assert re.match(r"stopped after 0.001 h \(--max_hours 0.001\) in step '\w+'; the same command", last)


def test_training_saves_when_the_time_is_up(base):
    "The clock sends SIGTERM to the stage itself: nothing but the environment has to know of it"
    base_stage = replace(SMOKE.base, steps=10**6, save_every=10**6)
    write_plan(run_dir("long"), replace(SMOKE, compile="off", base=base_stage))
    lines, seconds = [], 1.5
    while not lines:  # a slow machine has not begun by then, and the same command goes on
        seconds *= 2
        end = time.time() + seconds
        done = run_module("pretrain", "--run", "long", base=base, check=False, NANOCHAT_DEADLINE=end)
        assert done.returncode == 75 and seconds < 100, done.stderr
        lines = lines_of(run_dir("long"), "base")
    step = lines[-1]["step"]
    assert f"base: told to stop (SIGTERM): step {step} is saved" in done.stderr
    assert (run_dir("long") / "base" / f"step_{step}" / "meta.json").exists()


def test_what_can_not_save_ends_at_once(base):
    "An exam has nothing to keep: status 75, and its step is done again"
    code = (
        "import time; from nanochat.runs import run_dir, run_lock\n"
        "with run_lock(run_dir('exam')): time.sleep(60)"
    )
    began = time.time()
    around = environment(base, NANOCHAT_DEADLINE=began + 0.5)
    done = subprocess.run([sys.executable, "-c", code], env=around, cwd=ROOT, timeout=30)
    assert done.returncode == 75 and time.time() - began < 10
