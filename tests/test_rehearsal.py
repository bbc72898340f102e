"The full road in miniature: eight processes, every stage, and what may happen to them on the way"

import contextlib, json, os, re, signal, subprocess, sys, time
from dataclasses import replace
import pytest
from conftest import ROOT, door, lines_of, one_line, processes, warm_environment
from nanochat.runs import ROAD, read_plan
from nanochat.scaling import micro_batches

sys.path.insert(0, str(ROOT / "bench"))
import rehearsal

RUN, ALONE = "full-2026-s0", "gpu-2026-d24-s0"
ROAD_MINUTES = 8


def start(base, *more, tier="full"):
    "Begin the rehearsal, or go on with it: a process group of its own, as a job in a terminal has"
    command = ["bash", str(ROOT / "speedrun.sh"), "--tier", tier, "--rehearse", *more]
    around = warm_environment(base)  # loading torch eight times for each step took half of the time
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, env=around, process_group=0, **pipes)


def finished(process):
    "Its exit status and what it said"
    with ended(process):
        said = process.communicate(timeout=60 * ROAD_MINUTES)[1]
    return process.returncode, said


@contextlib.contextmanager
def ended(process):
    "An error, or Ctrl-C in the tests' terminal, ends all of it"
    try:
        yield
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise


def launched_by(base, **variables):
    "Numbers of the living processes that this rehearsal has started with these variables"
    return processes(NANOCHAT_BASE_DIR=base / "rehearsal", **variables)


def when_logged(process, run, stage, step):
    "Wait until a step of a stage is in the log"
    with ended(process):
        until = time.monotonic() + 60 * ROAD_MINUTES
        while time.monotonic() < until:
            if any(line["step"] >= step for line in lines_of(run, stage)):
                return
            if process.poll() is not None:
                said = process.communicate()[1]
                pytest.fail(f"ended with {process.returncode} before {stage} {step}:\n{said[-3000:]}")
            time.sleep(0.02)
        pytest.fail(f"{stage} {step} never came")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    "A rehearsal with every accident in it, and the same plan on one GPU, rehearsed without any"
    base = tmp_path_factory.mktemp("rehearsal")
    run = base / "rehearsal" / "runs" / RUN
    said = {}

    process = start(base)
    when_logged(process, run, "base", 23)
    (victim,) = launched_by(base, RANK=3)
    os.kill(victim, signal.SIGKILL)
    said["killed"] = finished(process)

    newest = max((run / "base").glob("step_*"), key=lambda path: int(path.name[5:]))
    said["newest"] = newest.name
    weights = newest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)

    process = start(base)
    when_logged(process, run, "mid", 3)
    (launcher,) = [
        pid
        for pid in launched_by(base, GPUS=8)
        if b"nanochat.distributed" in open(f"/proc/{pid}/cmdline", "rb").read()
    ]
    os.kill(launcher, signal.SIGTERM)
    said["stopped"] = finished(process)
    said["saved"] = sorted(path.name for path in (run / "mid").glob("step_*"))

    process = start(base)
    when_logged(process, run, "sft", 13)
    os.killpg(process.pid, signal.SIGINT)
    said["interrupted"] = finished(process)
    said["left"] = launched_by(base, GPUS=8)

    said["four"] = finished(start(base, "--gpus", "4"))
    said["one"] = finished(start(base, "--depth", "24", tier="gpu"))
    return base, run, run.parent / ALONE, said


def test_a_killed_process_ends_all_and_is_named(rehearsed):
    status, words = rehearsed[3]["killed"]
    assert status == 128 + signal.SIGKILL, words[-2000:]
    assert "process 3 of 8 was ended by SIGKILL" in words and "Traceback" not in words, words[-3000:]
    assert "stopped in step 'base'; the same command goes on from there" in words


def test_a_damaged_checkpoint_is_passed_over(rehearsed):
    _, _, _, said = rehearsed
    assert said["newest"] == "step_20"
    assert re.search(r"warning: .*base/step_20/model.safetensors is damaged", said["stopped"][1])


def test_a_spot_machines_notice_saves_and_says_so(rehearsed):
    status, words = rehearsed[3]["stopped"]
    assert status == 75, words[-2000:]
    (told,) = re.findall(r"mid: told to stop \(SIGTERM\): step (\d+) is saved", words)
    assert f"step_{told}" in rehearsed[3]["saved"] and int(told) % 10


def test_ctrl_c_ends_all_eight_with_one_line(rehearsed):
    status, words = rehearsed[3]["interrupted"]
    assert status == 128 + signal.SIGINT, words[-2000:]
    assert "goes on at step 'mid'" in words and "Traceback" not in words and "was ended by" not in words
    assert words.splitlines()[-1] == "stopped in step 'sft'; the same command goes on from there"
    assert words.count("the same command goes on from there") == 1
    assert rehearsed[3]["left"] == []


def test_four_processes_end_what_eight_began(rehearsed):
    base, run, _, said = rehearsed
    status, words = said["four"]
    assert status == 0, words[-3000:]
    assert "goes on at step 'sft'" in words and f"run {RUN} is finished" in words
    assert (run / "report.md").exists() and not list(base.glob("runs"))


def test_one_gpu_walks_the_whole_road_in_one_process(rehearsed):
    base, run, one, said = rehearsed
    status, words = said["one"]
    assert status == 0, words[-3000:]
    assert [line[3:-3] for line in words.splitlines() if line.startswith("== ")] == list(ROAD)
    assert f"run {ALONE} is finished" in words and (one / "report.md").exists()
    assert " of 1 " not in words and "launch" not in words
    mine, other = read_plan(one), read_plan(run)
    assert (mine.tier, mine.gpus, mine.rehearsal, other.gpus) == ("gpu", 1, True, 8)
    # a step of one process is in eight pieces, each of them as large as the share of one of eight
    assert micro_batches(mine.base.rows, mine.base.device_rows, 1) == (2, 8)
    assert micro_batches(other.base.rows, other.base.device_rows, 8) == (1, 2)
    as_other = {name: replace(mine.stage(name), device_rows=1) for name in mine.stages}
    as_other["rl"] = replace(as_other["rl"], answer_rows=other.rl.answer_rows)
    assert replace(mine, tier="full", gpus=8, **as_other) == replace(
        other, **{name: replace(other.stage(name), device_rows=1) for name in other.stages}
    )
    again = finished(start(base, "--depth", "24", tier="gpu"))
    assert again[0] == 0 and "is finished already" in again[1]


def test_the_road_does_not_tell_how_many_walked_it(rehearsed):
    _, run, one, said = rehearsed
    assert said["one"][0] == 0, said["one"][1][-3000:]
    for stage, steps in dict(base=40, mid=20, sft=20).items():
        mine, other = lines_of(run, stage), lines_of(one, stage)
        assert [l["step"] for l in mine] == [l["step"] for l in other] == list(range(1, steps + 1))
        assert [l["tokens"] for l in mine] == [l["tokens"] for l in other]
        assert [l["lr"] for l in mine] == [l["lr"] for l in other]
        worst = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(mine, other))
        print(f"{stage}: largest relative difference of a loss {worst:.1e}")
        assert worst < 2e-4, stage


def test_reinforcement_is_rewarded_and_the_same_too(rehearsed):
    _, run, one, said = rehearsed
    assert said["one"][0] == 0, said["one"][1][-3000:]
    mine, other = lines_of(run, "rl"), lines_of(one, "rl")
    for name in ("step", "reward", "tokens", "mixed", "cut"):
        assert [line[name] for line in mine] == [line[name] for line in other]
    assert [line["step"] for line in mine] == [1, 2, 3] and all(line["mixed"] > 0 for line in mine)
    # answers are pushed up and down, and most of it cancels: the measure is what is added up, advantages (of
    # which a group has about twice its reward) times log-probabilities (whose mean is the loss before)
    nats = lines_of(one, "sft")[-1]["loss"]
    apart = [abs(a["loss"] - b["loss"]) / (2 * b["reward"] * nats) for a, b in zip(mine, other)]
    print(f"rl: largest difference of a loss, of what is added up: {max(apart):.1e}")
    # Muon makes whole steps of gradients that nearly cancel: rounding grows from step to step
    assert max(apart[:2]) < 2e-4 and max(apart) < 5e-3
    for r in (run, one):
        before, after = (r / path / "model.safetensors" for path in ("sft/step_20", "rl/step_3"))
        assert before.read_bytes() != after.read_bytes(), "it has moved"


def test_scores_do_not_tell_it_either(rehearsed):
    _, run, one, _ = rehearsed
    mine, other = (json.loads((r / "results" / "summary.json").read_text()) for r in (run, one))
    assert mine["scores"] == other["scores"]
    assert mine["tokens"] == other["tokens"]
    for stage, value in other["bpb"].items():
        assert mine["bpb"][stage] == pytest.approx(value, rel=2e-4)


def test_what_is_saved_has_one_form(rehearsed):
    _, run, one, _ = rehearsed

    def names(run):
        return {
            str(path.relative_to(run)): path.stat().st_size
            for stage in ("base", "mid", "sft", "rl")
            for path in (run / stage).rglob("*.safetensors")
        }

    assert names(run) == names(one)


def test_a_rehearsal_needs_a_tier_for_gpus(base):
    one_line(door("--rehearse", base=base), "--rehearse", "--tier full or gpu", status=2)
    assert not base.exists()


def test_the_time_of_a_step_is_from_its_line_to_the_next():
    script = "sleep 0.2; echo '== settings ==' >&2; echo 'words == no heading =='; echo '== base ==' >&2"
    found = rehearsal.timed(["bash", "-c", script + "; sleep 0.4; exit $WANTED"], WANTED="3")
    assert found["status"] == 3 and list(found["steps"]) == ["before", "settings", "base"]
    assert found["steps"]["before"] >= 0.2 and found["steps"]["base"] >= 0.4
    assert found["seconds"] == pytest.approx(sum(found["steps"].values()), abs=0.2)


def test_the_kept_rehearsal_took_less_than_eight_minutes():
    if not rehearsal.OUT.exists():
        pytest.skip("no time of a rehearsal is kept yet: python bench/rehearsal.py")
    kept = json.loads(rehearsal.OUT.read_text())
    assert kept["command"] == "bash speedrun.sh --tier full --rehearse"
    assert list(kept["steps"]) == ["before", *ROAD] and kept["seconds"] < 60 * rehearsal.GOAL_MINUTES
