"A job may be killed at any moment: run again, it ends at the very bytes of a run that nobody disturbed"

import json, os, random, signal, subprocess, sys, time
import pytest
from conftest import (
    ROOT,
    TRAIN,
    door,
    door_environment,
    environment,
    flip,
    leftovers,
    lines_of,
    one_line,
    warm_environment,
)

# On the smoke tier no word problem is solved yet, so reinforcement would leave the model as it is; a reward
# that half of the answers earn moves it
PRAISE = """
from nanochat import grpo, tasks
tasks.WordProblems.right = lambda self, item, text: len(text) % 2 == 0
grpo.main()
"""


def command(stage, run):
    return (
        [sys.executable, "-c", PRAISE]
        if stage == "rl"
        else [sys.executable, "-m", f"nanochat.{TRAIN[stage][0]}", *TRAIN[stage][1:]]
    ) + ["--run", run.name]


def kill_at(run, stage, step, saved=False):
    """Kill -9 a stage and its whole process group once its log holds `step` steps and, where asked, there is
    a checkpoint, which is written while training goes on; how many steps does the log then hold?"""
    p = subprocess.Popen(
        command(stage, run),
        cwd=ROOT,
        start_new_session=True,
        env=environment(run.base),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    t0 = time.time()

    def reached():
        there = not saved or list((run.dir / stage).glob("step_*"))
        return there and len(lines_of(run.dir, stage)) >= step

    while p.poll() is None and not reached() and time.time() - t0 < 180:
        time.sleep(0.005)
    if p.poll() is None:
        os.killpg(p.pid, signal.SIGKILL)
    err = p.communicate()[1].decode()
    assert p.returncode == -signal.SIGKILL, f"it ended by itself with {p.returncode}: {err[-2000:]}"
    return len(lines_of(run.dir, stage))


def same_end(run, undisturbed, stage):
    "The stage ended as in the undisturbed run: every step once, every loss, every byte of the model"
    mine, theirs = lines_of(run.dir, stage), lines_of(undisturbed.dir, stage)
    assert [l["step"] for l in mine] == list(range(1, run.settings[stage]["steps"] + 1)), (
        "each step stands in the log once"
    )
    assert [l["loss"] for l in mine] == [l["loss"] for l in theirs]
    assert run.last(stage).name == undisturbed.last(stage).name and run.weights(stage) == undisturbed.weights(
        stage
    )
    assert not leftovers(run.dir)
    result, want = (json.loads((r.dir / "results" / f"{stage}.json").read_text()) for r in (run, undisturbed))
    assert (result["loss"], result["steps"], result["tokens"]) == (
        want["loss"],
        want["steps"],
        want["tokens"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", TRAIN)
def test_killed_before_and_after_the_first_checkpoint(smoke, stage, tmp_path):
    run, cfg, undisturbed = smoke.before(stage, tmp_path / "killed"), smoke.settings[stage], smoke
    if stage == "rl":
        undisturbed = smoke.before(stage, tmp_path / "undisturbed")
        subprocess.run(
            command(stage, undisturbed),
            cwd=ROOT,
            env=environment(undisturbed.base),
            check=True,
            capture_output=True,
        )
        assert undisturbed.weights("rl") != smoke.weights("sft"), "the reward moves the model"
    rng = random.Random()
    seed = rng.randrange(10**6)
    rng.seed(seed)
    print(f"seed of the moments: {seed}")
    early, late = rng.randrange(1, cfg["save_every"]), rng.randrange(cfg["save_every"] + 1, cfg["steps"])
    kill_at(run, stage, early)
    at = kill_at(run, stage, late, saved=True)
    assert at >= late and list((run.dir / stage).glob("step_*")), "killed after a checkpoint"
    with open(run.dir / "log.jsonl", "a") as f:
        f.write('{"stage": "%s", "st' % stage)  # as a kill in the middle of a write leaves it
    again = subprocess.run(
        command(stage, run), cwd=ROOT, env=environment(run.base), capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    same_end(run, undisturbed, stage)
    seconds = json.loads((run.dir / "results" / f"{stage}.json").read_text())["seconds"]
    assert seconds >= lines_of(run.dir, stage)[-1]["seconds"] - 0.5 and "Traceback" not in again.stderr


@pytest.mark.slow
def test_the_whole_job_killed_and_started_again(smoke, tmp_path):
    run = smoke.before("sft", tmp_path)
    p = subprocess.Popen(
        ["bash", str(ROOT / "speedrun.sh"), "--run", run.name],
        env=door_environment(run.base),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while p.poll() is None and len(lines_of(run.dir, "sft")) < 25:
        time.sleep(0.01)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    again = door("--run", run.name, base=run.base)
    assert again.returncode == 0, again.stderr[-2000:]
    steps = [l[3:-3] for l in again.stderr.splitlines() if l.startswith("== ")]
    assert steps == ["sft", "tasks_sft", "rl", "tasks_rl", "report"], "what was done is not done again"
    for stage in ("sft", "rl"):
        same_end(run, smoke, stage)
    a, b = (json.loads((r.dir / "results" / "summary.json").read_text()) for r in (run, smoke))
    assert a["scores"] == b["scores"] and a["bpb"] == b["bpb"] and a["tokens"] == b["tokens"]


@pytest.mark.slow
def test_damage_sends_each_stage_back_and_no_further(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    harmed = {"base": "model.safetensors", "mid": "meta.json", "rl": "optim.safetensors"}
    for stage, file in harmed.items():
        flip(run.last(stage) / file)
    again = door("--run", run.name, base=run.base)
    assert again.returncode == 0, again.stderr[-2000:]
    for stage, file in harmed.items():
        assert any(
            f"{stage}/step_{run.settings[stage]['steps']}/{file}" in l for l in again.stderr.splitlines()
        ), f"the damage in {stage} is not named:\n{again.stderr}"
    steps = [l[3:-3] for l in again.stderr.splitlines() if l.startswith("== ")]
    assert steps == ["base", "mid", "rl"], "each harmed stage, in the order of the road, and nothing else"
    for stage in TRAIN:
        same_end(run, smoke, stage)
    assert "finished already" in door("--run", run.name, base=run.base).stderr


@pytest.mark.slow
def test_both_checkpoints_damaged_means_from_the_start(smoke, tmp_path):
    run = smoke.before("mid", tmp_path)
    for c in (run.dir / "base").glob("step_*"):
        flip(c / "model.safetensors")
    err = run.train("base").stderr
    for c in ("step_40", "step_60"):
        assert c in err, err
    same_end(run, smoke, "base")


def test_a_later_stage_does_not_start_from_a_damaged_one(smoke, tmp_path):
    "The older checkpoint is no finished stage: a stage that began with it would end elsewhere"
    run = smoke.before("mid", tmp_path)
    flip(run.last("base") / "model.safetensors")
    one_line(run.train("mid", check=False), "base", "damaged")
    assert not (run.dir / "mid").exists()


def test_chat_refuses_a_damaged_model_and_names_the_older(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    flip(run.last("rl") / "model.safetensors")
    old = min((run.dir / "rl").glob("step_*"), key=lambda p: int(p.name[5:]))
    for args in (("chat", "--run", run.name), ("serve", "--run", run.name, "--port", "0")):
        done = door(*args, base=run.base, stdin="Who are you?\n", timeout=60)
        one_line(done, "damaged", old.name)
        assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("stage", TRAIN)
def test_told_to_stop_it_saves_and_says_so(smoke, stage, tmp_path):
    "SIGTERM, as a rented machine sends it before it is taken back: status 75, and no step is done twice"
    run = smoke.before(stage, tmp_path / "stopped")
    p = subprocess.Popen(
        command(stage, run),
        cwd=ROOT,
        env=environment(run.base),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.time() + 180
    while p.poll() is None and len(lines_of(run.dir, stage)) < 2 and time.time() < until:
        time.sleep(0.005)
    p.send_signal(signal.SIGTERM)
    said = p.communicate(timeout=60)[1]
    assert p.returncode == 75, said[-2000:]
    done = len(lines_of(run.dir, stage))
    assert f"{stage}: told to stop (SIGTERM): step {done} is saved" in said and "Traceback" not in said
    assert run.last(stage).name == f"step_{done}"
    if stage in ("mid", "sft"):  # the others are at home in other tests: their ends take longer
        again = command(stage, run)
        subprocess.run(again, cwd=ROOT, env=environment(run.base), check=True, capture_output=True)
        same_end(run, smoke, stage)


def living(base):
    "Processes that work in a base folder"
    wanted, found = f"NANOCHAT_BASE_DIR={base}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                found += [int(pid)] if wanted in file.read().split(b"\0") else []
        except OSError:
            pass
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc to look for processes in")
def test_the_shell_alone_is_told_to_stop(smoke, tmp_path):
    "As `docker stop` tells only the first process: the step hears of it, saves, and nothing lives on"
    run = smoke.before("mid", tmp_path)
    around = warm_environment(run.base)
    p = subprocess.Popen(
        ["bash", str(ROOT / "speedrun.sh"), "--run", run.name],
        env=around,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.time() + 120
    while p.poll() is None and len(lines_of(run.dir, "mid")) < 2 and time.time() < until:
        time.sleep(0.005)
    p.send_signal(signal.SIGTERM)
    said = p.communicate(timeout=60)[1]
    done = len(lines_of(run.dir, "mid"))
    assert p.returncode == 75 and f"mid: told to stop (SIGTERM): step {done} is saved" in said, said[-2000:]
    assert said.splitlines()[-1] == "stopped in step 'mid'; the same command goes on from there"
    assert run.last("mid").name == f"step_{done}" and done < run.settings["mid"]["steps"]
    assert not living(run.base)
