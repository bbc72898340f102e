"Runs that were damaged, killed, locked, lost or can't be written: one clear line each, and a way on"

import contextlib, fcntl, hashlib, io, json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
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
    run_module,
    warm_environment,
)
from nanochat import runs
from nanochat.runs import run_dir, write_plan
from nanochat.scaling import all_params, model_config, plan_tier, recipe_plan, state_of

# --- one lock for a whole job, torchrun's workers included ---

# stands in for python: pretraining goes through torchrun, two processes, everything else as it is
TORCHRUN = """#!/bin/sh
if [ "$1 $2" = "-m nanochat.pretrain" ]; then
  shift 2
  exec {python} -m torch.distributed.run --nproc_per_node=2 --master_port=0 --rdzv_backend=c10d \\
    --rdzv_endpoint=127.0.0.1:0 -m nanochat.pretrain -- "$@"
fi
exec {python} "$@"
"""


@pytest.fixture
def two_processes(tmp_path):
    "Variables with which the door pretrains through torchrun"
    stand_in = tmp_path / "python"
    stand_in.write_text(TORCHRUN.replace("{python}", sys.executable))
    stand_in.chmod(0o755)
    return dict(PYTHON=str(stand_in), OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu")


def start(run, **env):
    "The main door in a process group of its own"
    return subprocess.Popen(
        ["bash", str(ROOT / "speedrun.sh"), "--run", run.name],
        env=door_environment(run.base, **env),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what, seconds=120):
    "Wait until a condition holds"
    end = time.time() + seconds
    while not what() and time.time() < end:
        time.sleep(0.05)
    assert what(), "it never came"


def alive(pid):
    "Does a process run (and is not dead and unburied)?"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_lock_lets_torchruns_workers_in_and_outlives_its_holder(smoke, tmp_path, two_processes):
    run = smoke.before("base", tmp_path / "base")
    run.change(base=dict(steps=4000, save_every=20))  # long enough to be met in the middle
    job = start(run, **two_processes)
    try:
        wait_for(lambda: len(lines_of(run.dir, "base")) >= 3 or job.poll() is not None)
        assert job.poll() is None, job.stderr.read()
        assert (run.dir / ".lock").read_text().split()[0] == str(job.pid)
        one_line(door("--run", run.name, base=run.base), "in use by process", str(job.pid), status=1)
        worker = int((run.dir / ".workers").read_text())
        assert worker != job.pid and alive(worker)
        os.kill(job.pid, signal.SIGKILL)  # the holder alone; its step goes on
        job.wait()
        steps = len(lines_of(run.dir, "base"))
        wait_for(lambda: len(lines_of(run.dir, "base")) > steps)
        for args in (("--run", run.name), ("clean", run.name)):
            one_line(door(*args, base=run.base), "last step", str(worker), "still running", status=1)
        one_line(
            run_module("evaluate", "--run", run.name, "--stage", "tokenizer", base=run.base, check=False),
            "still running",
            str(worker),
        )
        assert f"process {worker}" in door("runs", base=run.base).stdout
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    with contextlib.suppress(UnboundLocalError, ProcessLookupError):
        os.kill(worker, signal.SIGKILL)  # torchrun gave it a session of its own
    wait_for(lambda: not alive(worker))
    shutil.rmtree(run.dir / "base", ignore_errors=True)
    run.change(base=dict(steps=60))

    def busy():
        with open(run.dir / ".workers") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True

    wait_for(lambda: not busy())
    run.train("base")
    assert len(lines_of(run.dir, "base")) == 60 and not leftovers(run.dir)


def test_a_step_of_a_dead_job_is_refused(base):
    "Its token is in no lock file that somebody holds"
    from nanochat.runs import UserError, run_dir, run_lock

    rdir = run_dir("one")
    with run_lock(rdir):
        old = os.environ["NANOCHAT_LOCK"]
    assert "NANOCHAT_LOCK" not in os.environ
    os.environ["NANOCHAT_LOCK"] = old
    try:
        with pytest.raises(UserError, match="no longer holds it"):
            with run_lock(rdir):
                pass
        with run_lock(run_dir("two")):
            pass  # another run is none of its business
        with open(rdir / ".lock", "a+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.truncate(0)
            f.write("4711 " + "0" * 32)
            f.flush()
            with pytest.raises(UserError, match="in use by process 4711"):
                with run_lock(rdir):
                    pass
    finally:
        del os.environ["NANOCHAT_LOCK"]


def test_the_same_name_in_another_base_folder_is_another_run(base, tmp_path, monkeypatch):
    "A job may start a run of this name elsewhere: its token opens nothing there, and isn't taken for stale"
    from nanochat.runs import run_dir, run_lock

    with run_lock(run_dir("twin")):
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "elsewhere"))
        with run_lock(run_dir("twin")):
            pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(base, tmp_path):
    "What it leads to would be cut to nothing"
    from nanochat.runs import UserError, run_dir, run_lock

    kept = tmp_path / "kept.txt"
    kept.write_text("dear")
    for name in (".lock", ".workers"):
        rdir = run_dir(f"linked{name}")
        rdir.mkdir(parents=True)
        (rdir / name).symlink_to(kept)
        with pytest.raises(UserError, match="is a link"):
            with run_lock(rdir):
                pass
    one_line(door("--tier", "smoke", "--run", "linked.lock", base=base), "is a link", status=1)
    assert kept.read_text() == "dear"


def test_who_removes_the_lock_file_lets_nobody_in(base):
    "The folder is locked as well, by a module and by the shell"
    from nanochat.runs import run_dir, run_lock, write_plan
    from nanochat.scaling import make_plan

    rdir = run_dir("kept")
    with run_lock(rdir):
        write_plan(rdir, make_plan("smoke"))
        (rdir / ".lock").unlink()
        one_line(
            run_module("evaluate", "--run", "kept", "--stage", "tokenizer", base=base, check=False),
            "in use by process",
        )
        one_line(door("--tier", "smoke", "--run", "kept", base=base), "in use by", status=1)
        one_line(door("clean", "kept", base=base), "in use by", status=1)
        assert "lock file was removed" in door("runs", base=base).stdout
    job = subprocess.Popen(
        ["bash", str(ROOT / "speedrun.sh"), "--tier", "smoke", "--run", "held"],
        env=environment(base),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        held = run_dir("held")
        wait_for(lambda: (held / "settings.json").exists())
        (held / ".lock").unlink()
        one_line(
            run_module("evaluate", "--run", "held", "--stage", "tokenizer", base=base, check=False),
            "in use by process",
        )
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def test_a_result_under_another_name_is_not_believed(base):
    "base's scores copied to where fine-tuning's belong"
    from nanochat.runs import Damaged, read_result, run_dir, save_result, write_sealed

    rdir = run_dir("swapped")
    save_result(rdir, "tasks_base", dict(stage="base", seconds=1.0))
    shutil.copy(rdir / "results" / "tasks_base.json", rdir / "results" / "tasks_sft.json")
    assert read_result(rdir, "tasks_base") == dict(stage="base", seconds=1.0)
    with pytest.raises(Damaged, match="it is the result 'tasks_base'"):
        read_result(rdir, "tasks_sft")
    write_sealed(rdir / "results" / "tasks_rl.json", dict(stage="rl"))  # as older versions wrote them
    assert read_result(rdir, "tasks_rl") == dict(stage="rl")


def test_settings_are_sealed_from_the_first_moment(base, tmp_path):
    "And the plan of a small folder is as long as its text allows from the first moment, too"
    from nanochat.runs import read_plan, run_dir
    from nanochat.scaling import TIERS, open_run

    open_run("sealed", tier="smoke")
    file = run_dir("sealed") / "settings.json"
    assert "sha256" in json.loads(file.read_text())
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "a.txt").write_text("".join(f"Line {i} of a book.\n" for i in range(4000)))
    short = open_run("short", tier="laptop", corpus=str(shelf))
    said = json.loads((short.folder / "settings.json").read_text())
    assert short.plan.base.steps < short.plan.base.planned_steps == TIERS["laptop"].base.steps
    assert "sha256" in said and read_plan(short.folder) == short.plan


def test_every_rank_may_take_the_lock(base, monkeypatch):
    "Under torchrun by hand the first process holds it, the others pass"
    from nanochat.runs import run_dir, run_lock

    for name, value in dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0").items():
        monkeypatch.setenv(name, value)
    code = "from nanochat.runs import run_dir, run_lock\nwith run_lock(run_dir('r')): print('in')"
    with run_lock(run_dir("r")):
        alone = environment(base)
        other = subprocess.run(
            [sys.executable, "-c", code],
            env={**alone, "RANK": "1", "WORLD_SIZE": "2"},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert other.stdout == "in\n", other.stderr
        same = subprocess.run(
            [sys.executable, "-c", code], env=alone, capture_output=True, text=True, cwd=ROOT
        )
        assert same.returncode and "in use by process" in same.stderr


# --- a kill in mid-write ---

KILLED = """
import os, signal, sys
real, left = os.fsync, int(sys.argv.pop(1))
def fsync(fd):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    real(fd)
os.fsync = fsync
from nanochat import sft
sft.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3])  # the log (its folder is the second), and a file inside a checkpoint
def test_a_kill_in_mid_write_leaves_parts_that_the_next_start_removes(smoke, tmp_path, at):
    run = smoke.before("mid", tmp_path)
    with open(run.dir / "log.jsonl", "a") as f:
        f.write("half a li")  # so that the log is written first
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(at), "--run", run.name, "--stage", "mid"],
        cwd=ROOT,
        env=environment(run.base),
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    parts = leftovers(run.dir)
    assert parts and all(p.name.endswith(".part") or p.parent.name.endswith(".part") for p in parts), parts
    again = run.train("mid")
    assert not leftovers(run.dir), again.stderr
    assert run.weights("mid") == smoke.weights("mid")


def test_the_door_removes_the_parts_too(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    code = (
        "import os, signal, sys\nos.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from nanochat.runs import atomic_write, write_checked\nfrom pathlib import Path\n"
    )
    for write in (
        "atomic_write(Path(sys.argv[1])/'results'/'new.json', '{}')",
        "write_checked(Path(sys.argv[1])/'rl'/'step_9', {'a': b'x'}, {})",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code + write, str(run.dir)],
            cwd=ROOT,
            env=environment(run.base),
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert len([p for p in leftovers(run.dir) if p.name.endswith(".part")]) == 2
    assert door("--run", run.name, base=run.base).returncode == 0
    assert not leftovers(run.dir)


# --- damage ---


def forge(checkpoint, meta):
    "Give a checkpoint another meta.json, with the fingerprint that fits it"
    import hashlib

    text = meta if isinstance(meta, str) else json.dumps(meta)
    (checkpoint / "meta.json").write_text(text)
    (checkpoint / "meta.sha256").write_text(hashlib.sha256(text.encode()).hexdigest() + "\n")


def another_digit(file):
    "Change the first digit: the last of a long fraction may be one that no float keeps"
    text = file.read_text()
    at = re.search(r"\d", text).start()
    file.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def in_place_of(file, folder=False):
    "A folder where a file should be, or the other way round"
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    file.mkdir() if folder else file.write_text("not a folder")


def last_line(file, *lines):
    with open(file, "ab") as f:
        f.write(b"".join(line.encode() if isinstance(line, str) else line for line in lines))


def finished(run):
    "The next start finds nothing left to do, and what was made is what an undisturbed run made"
    last = door("--run", run.name, base=run.base)
    assert last.returncode == 0 and "finished already" in last.stderr, last.stderr
    assert (run.dir / "report.md").exists() and not leftovers(run.dir)


def same_numbers(run, undisturbed):
    mine, theirs = (json.loads((r.dir / "results" / "summary.json").read_text()) for r in (run, undisturbed))
    for part in ("scores", "bpb", "tokens", "params", "seed"):
        assert mine[part] == theirs[part], part
    for stage in TRAIN:
        assert run.weights(stage) == undisturbed.weights(stage), stage


def goes_on(run, words):
    "One start that names every damage in a warning, and ends well"
    done = door("--run", run.name, base=run.base, timeout=600)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    warned = [l for l in done.stderr.splitlines() if l.startswith("warning: ")]
    for place, word in words:
        assert any(str(place) in l and word in l for l in warned), f"{place}: {word}\n{done.stderr}"
    return done


CHECKPOINT = {  # how a checkpoint is damaged, and a word of the warning
    "meta without files": (lambda c: forge(c, {"step": 6}), "lists no files"),
    "meta with empty files": (lambda c: forge(c, {"files": {}}), "lists no files"),
    "meta a list": (lambda c: forge(c, [1, 2]), "lists no files"),
    "meta a number": (lambda c: forge(c, "7"), "lists no files"),
    "meta no JSON, well hashed": (lambda c: forge(c, "{"), "not JSON"),
    "meta nested for ever": (lambda c: forge(c, "[" * 100_000), "not JSON"),
    "meta lists numbers": (lambda c: forge(c, {"files": {"model.safetensors": 5}}), "no size"),
    "meta gone": (lambda c: (c / "meta.json").unlink(), "meta.json"),
    "meta a folder": (lambda c: in_place_of(c / "meta.json", folder=True), "meta.json"),
    "weights a folder": (lambda c: in_place_of(c / "model.safetensors", folder=True), "model.safetensors"),
    "weights gone": (lambda c: (c / "model.safetensors").unlink(), "model.safetensors"),
    "a bit of the weights": (lambda c: flip(c / "model.safetensors"), "model.safetensors"),
}


@pytest.mark.slow
@pytest.mark.parametrize("group", range(0, len(CHECKPOINT), len(TRAIN)))
def test_damaged_checkpoints_are_named_and_made_again(smoke, tmp_path, group):
    "Four kinds of damage at once, one in each stage"
    run, words = smoke.copy(tmp_path), []
    for stage, name in zip(TRAIN, list(CHECKPOINT)[group:]):
        harm, word = CHECKPOINT[name]
        harm(run.last(stage))
        words.append((f"{stage}/step_", word))
    goes_on(run, words)
    same_numbers(run, smoke)
    finished(run)


RESULT = {  # a result, and what is found in its place
    "mid": '"fine"',
    "tasks_sft": "[]",
    "tokenizer": "null",
    "evaluate_base": '{"bpb',
    "base": another_digit,
    "rl": b"\xff\xff",
    "tasks_rl": "{}",
    "sft": "[" * 100_000,
    "evaluate_mid": another_digit,
}


@pytest.mark.slow
def test_damaged_results_are_named_and_made_again(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    for name, harm in RESULT.items():
        file = run.dir / "results" / f"{name}.json"
        if callable(harm):
            harm(file)
        else:
            file.write_bytes(harm if isinstance(harm, bytes) else harm.encode())
    for module, args, name in (
        ("sft", ("--stage", "mid"), "mid"),
        ("evaluate", ("--stage", "base"), "evaluate_base"),
        ("tasks", ("--stage", "sft"), "tasks_sft"),
    ):
        one_line(
            run_module(module, "--run", run.name, *args, base=run.base, check=False),
            f"{name}.json is damaged",
            "remove it",
        )
    done = goes_on(run, [(f"results/{name}.json", "damaged") for name in RESULT])
    assert {l[3:-3] for l in done.stderr.splitlines() if l.startswith("== ")} == {*RESULT, "report"}, (
        "these steps, and no others"
    )
    same_numbers(run, smoke)
    finished(run)


SUMMARY = {
    "cut": '{"scores',
    "{}": "{}",
    "without scores": '{"bpb": {}}',
    "a list for scores": '{"scores": [], "bpb": {}, "seconds": {}, "tokens": {}}',
    "a digit": another_digit,
    "gone": lambda f: f.unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", SUMMARY.values(), ids=SUMMARY)
def test_a_damaged_summary_is_no_dead_end(smoke, tmp_path, harm):
    run = smoke.copy(tmp_path)
    file = run.dir / "results" / "summary.json"
    if callable(harm):
        harm(file)
    else:
        file.write_text(harm)
    from nanochat.report import gather

    with contextlib.redirect_stderr(io.StringIO()) as said:
        res = gather(run.dir)  # the report works before anything is made again
    assert ("summary.json is damaged" in said.getvalue()) == file.exists()
    assert res.summary["scores"] == gather(smoke.dir).summary["scores"]
    goes_on(run, [("summary.json", "damaged")] if file.exists() else [])
    same_numbers(run, smoke)
    finished(run)


@pytest.mark.slow
def test_what_is_no_part_of_a_run_is_passed_over(smoke, tmp_path):
    "Files that are called as checkpoints are, and lines of the log that are no entries"
    run = smoke.copy(tmp_path)
    for stage, name in (("rl", "step_7"), ("mid", "step_999"), ("rl", "step_" + "9" * 200)):
        (run.dir / stage / name).write_text("x")
    for name in ("step_x", "step_²", "step_٣", "step_007", "step_-1", "step_"):
        (run.dir / "rl" / name).mkdir()
    last_line(
        run.dir / "log.jsonl",
        b'{"stage": "b\xff\xfe"}\n',
        '7\n[1, 2]\n"x"\nnull\n{}\n',
        '{"stage": "rl", "step": "six"}\n{"stage": 4, "step": 1, "loss": 1, "tokens": 1}\n',
        '{"stage": "base", "step": 7}\n{"stage": "base", "step": 8, "loss": null, "tokens": 9}\n'
        '{"stage": "base", "step": 9, "loss": NaN, "tokens": 9}\n',
        "[" * 100_000 + "\n",
        '{"stage": "rl", "st',
    )
    finished(run)
    assert "finished" in door("runs", base=run.base).stdout
    run_module("report", "--run", run.name, base=run.base)
    assert (run.dir / "report.md").read_bytes() == (smoke.dir / "report.md").read_bytes()
    last = run.dir / "mid" / smoke.last("mid").name
    shutil.rmtree(last)  # and training goes on among them
    last.write_text("a file, where the checkpoint was")
    run.train("mid")
    assert (last / "model.safetensors").read_bytes() == smoke.weights("mid")
    (run.dir / "log.jsonl").unlink()
    run_module("report", "--run", run.name, base=run.base)


REFUSED = {  # what can't be made again: (how, the file that the line names, a word)
    "a stage is a file": (lambda r: in_place_of(r.dir / "rl"), "rl", "is a file"),
    "settings gone": (lambda r: (r.dir / "settings.json").unlink(), "settings.json", "is gone"),
    "settings cut": (
        lambda r: (r.dir / "settings.json").write_text('{"tier": "sm'),
        "settings.json",
        "damaged",
    ),
    "settings empty": (lambda r: (r.dir / "settings.json").write_text(""), "settings.json", "damaged"),
    "settings {}": (lambda r: (r.dir / "settings.json").write_text("{}"), "settings.json", "damaged"),
    "settings []": (lambda r: (r.dir / "settings.json").write_text("[]"), "settings.json", "damaged"),
    "settings a text": (
        lambda r: (r.dir / "settings.json").write_text('"smoke"'),
        "settings.json",
        "damaged",
    ),
    "settings nested for ever": (
        lambda r: (r.dir / "settings.json").write_text("[" * 100_000),
        "settings.json",
        "damaged",
    ),
    "settings with a part only": (
        lambda r: (r.dir / "settings.json").write_text('{"tier": "smoke", "corpus": "world"}'),
        "settings.json",
        "it has no ",
    ),
    "settings without steps": (
        lambda r: (r.dir / "settings.json").write_text(
            json.dumps({k: v for k, v in dict(r.settings, base={}).items() if k != "sha256"})
        ),
        "settings.json",
        "has no base.steps",
    ),
    "a digit of the settings": (
        lambda r: another_digit(r.dir / "settings.json"),
        "settings.json",
        "sha256 differs",
    ),
    "settings of a seal alone": (
        lambda r: (r.dir / "settings.json").write_text('{"sha256": null}'),
        "settings.json",
        "damaged",
    ),
    "settings of a null seal": (
        lambda r: (r.dir / "settings.json").write_text(json.dumps({**r.settings, "sha256": None})),
        "settings.json",
        "sha256 differs",
    ),
    "settings a folder": (
        lambda r: in_place_of(r.dir / "settings.json", folder=True),
        "settings.json",
        "damaged",
    ),
    "settings not UTF-8": (
        lambda r: (r.dir / "settings.json").write_bytes(b"\xff\xfe{}"),
        "settings.json",
        "damaged",
    ),
    "a result is a folder": (
        lambda r: in_place_of(r.dir / "results" / "rl.json", folder=True),
        "results/rl.json",
        "is a folder",
    ),
    "results is a file": (lambda r: in_place_of(r.dir / "results"), "results", "is a file"),
    "log is a folder": (lambda r: in_place_of(r.dir / "log.jsonl", folder=True), "log.jsonl", "is a folder"),
    "tokenizer is a file": (lambda r: in_place_of(r.dir / "tokenizer"), "tokenizer", "is a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_again_is_refused_with_a_way_on(smoke, tmp_path, name):
    harm, file, word = REFUSED[name]
    run = smoke.copy(tmp_path)
    harm(run)
    one_line(door("--run", run.name, base=run.base), file, word, status=1)
    listed = door("runs", base=run.base)
    assert listed.returncode == 0 and run.name in listed.stdout and not listed.stderr, listed.stderr
    assert ("settings" in listed.stdout) == (file == "settings.json")
    if (run.dir / file).exists():
        (run.dir / file).rename(tmp_path / "aside")
    good = smoke.dir / file  # put back, as the line says
    shutil.copytree(good, run.dir / file) if good.is_dir() else shutil.copy2(good, run.dir / file)
    finished(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [lambda f: f.write_text('{"ranks'), another_digit, lambda f: f.unlink(), lambda f: f.write_text("[]")],
    ids=["cut", "a digit", "gone", "a list"],
)
def test_a_damaged_tokenizer_is_made_again(smoke, tmp_path, harm):
    run = smoke.copy(tmp_path)
    file = run.dir / "tokenizer" / "tokenizer.json"
    good = file.read_bytes()
    harm(file)
    goes_on(run, [("tokenizer.json", "damaged")] if file.exists() else [])
    assert file.read_bytes() == good
    finished(run)


DTYPE = {
    "cut": '{"dty',
    "empty": "",
    "{}": "{}",
    "unknown": '{"dtype": "float8", "threads": 1}',
    "no torch dtype": '{"dtype": "nn", "threads": 1}',
    "threads a text": '{"dtype": "float32", "threads": "two"}',
    "threads 0": '{"dtype": "float32", "threads": 0}',
    "a list": '["float32"]',
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("text", DTYPE.values(), ids=DTYPE)
def test_a_damaged_dtype_is_that_of_the_checkpoints(smoke, tmp_path, text, capsys):
    from nanochat.runs import run_lock

    run = smoke.before("rl", tmp_path)
    was = json.loads((run.dir / "dtype.json").read_text())["dtype"]
    (run.dir / "dtype.json").write_bytes(text.encode(errors="surrogateescape"))
    with run_lock(run.dir):
        pass  # what every module does first
    assert "dtype.json is damaged; it is made again from sft/step_40" in capsys.readouterr().err
    assert json.loads((run.dir / "dtype.json").read_text())["dtype"] == was
    for stage in ("base", "mid", "sft"):
        shutil.rmtree(run.dir / stage)
    (run.dir / "dtype.json").write_bytes(text.encode(errors="surrogateescape"))
    with run_lock(run.dir):
        pass
    assert "the dtype is chosen anew" in capsys.readouterr().err and not (run.dir / "dtype.json").exists()


def test_settings_are_never_planned_anew_over_old_checkpoints(smoke, tmp_path):
    run = smoke.before("mid", tmp_path)
    file = run.dir / "settings.json"
    file.unlink()
    for module, args in (("pretrain", ()), ("scaling", ()), ("sft", ("--stage", "mid")), ("evaluate", ())):
        one_line(
            run_module(module, "--run", run.name, *args, base=run.base, check=False),
            "settings.json is gone",
            "clean",
        )
    one_line(door("--run", run.name, "--tier", "laptop", base=run.base), "settings.json is gone", status=1)
    assert not file.exists() and "settings lost" in door("runs", base=run.base).stdout
    assert door("clean", run.name, base=run.base).returncode == 0 and not run.dir.exists()


def test_a_setting_changed_on_purpose_is_sealed_again(smoke, tmp_path):
    run = smoke.before("mid", tmp_path)
    assert run.settings["sha256"]
    run.change(eval_n=8)
    run_module("evaluate", "--run", run.name, "--stage", "base", base=run.base)
    assert run.settings["eval_n"] == 8 and run.settings["sha256"]
    another_digit(run.dir / "settings.json")
    one_line(
        run_module("evaluate", "--run", run.name, "--stage", "mid", base=run.base, check=False),
        "sha256 differs",
    )


def test_the_summary_can_be_made_again(smoke, tmp_path):
    from nanochat.runs import read_summary, rebuilt_summary

    kept, again = read_summary(smoke.dir), rebuilt_summary(smoke.dir)
    for part in ("scores", "bpb", "tokens", "params", "seed"):
        assert again[part] == kept[part], part
    assert again["seconds"].keys() == kept["seconds"].keys()
    for stage, seconds in kept["seconds"].items():
        assert abs(again["seconds"][stage] - seconds) < 1e-6 + 1e-3 * seconds, stage
    assert 0 < again["peak_rss_mb"] <= kept["peak_rss_mb"]


def test_results_say_when_a_digit_is_changed(base):
    from nanochat.runs import Damaged, read_result, run_dir, save_result

    for result in (dict(a=1), dict(loss=2.5, list=[1, {"x": None}]), {}, dict(nan=float("nan")), {"é": "ü"}):
        save_result(run_dir("r"), "x", result)
        assert str(read_result(run_dir("r"), "x")) == str(result)
    file = run_dir("r") / "results" / "y.json"
    save_result(run_dir("r"), "y", dict(loss=2.5))
    text = file.read_text()
    for i, c in enumerate(text.split('"sha256"')[0]):
        if c.isdigit():
            file.write_text(text[:i] + str((int(c) + 1) % 10) + text[i + 1 :])
            with pytest.raises(Damaged, match="y.json"):
                read_result(run_dir("r"), "y")


# --- removed, read-only, and where nothing may be written ---


@pytest.mark.slow
def test_the_folder_removed_while_it_runs(smoke, tmp_path):
    run = smoke.before("mid", tmp_path)
    job = subprocess.Popen(
        [sys.executable, "-m", "nanochat.sft", "--run", run.name, "--stage", "mid"],
        cwd=ROOT,
        env=environment(run.base),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: len(lines_of(run.dir, "mid")) >= 2 or job.poll() is not None)
    run.dir.rename(tmp_path / "elsewhere")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 1 and "Traceback" not in err, err
    assert [l for l in err.splitlines() if l.startswith("error: ")][0].count(
        run.name
    ) and "removed or moved" in err
    assert not run.dir.exists(), "nothing is begun again by what is written last"


@pytest.fixture
def read_only(smoke, tmp_path):
    "A finished run on a file system that is mounted for reading only"
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run = smoke.copy(disk)
        (run.dir / ".lock").write_text("4711 long-gone")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield run
    finally:
        subprocess.run(["umount", "-l", str(disk)])


@pytest.mark.slow
def test_a_store_that_can_only_be_read(read_only):
    run = read_only
    listed = door("runs", base=run.base)
    assert "finished" in listed.stdout and "4711" not in listed.stdout, "a process long gone uses nothing"
    assert "finished already" in door("--run", run.name, base=run.base).stderr
    chat = door("chat", "--run", run.name, base=run.base, stdin="Who are you?\n", timeout=120)
    assert chat.returncode == 0 and chat.stdout.strip(), chat.stderr
    report = door("report", "--run", run.name, base=run.base)
    assert (
        report.returncode == 0
        and "## Cost" in report.stdout
        and "can't be written" in report.stderr
        and "Traceback" not in report.stderr
    )
    one_line(door("clean", run.name, base=run.base), "can't be removed", status=1)
    for module, args in (
        ("evaluate", ("--stage", "base")),
        ("tasks", ("--stage", "rl")),
        ("grpo", ()),
        ("sft", ()),
        ("pretrain", ()),
    ):
        one_line(
            run_module(module, "--run", run.name, *args, base=run.base, check=False),
            "can't be written",
            "chat, serve and report",
        )
    one_line(
        door("--tier", "smoke", "--run", "new", base=run.base),
        "can't be written",
        "NANOCHAT_BASE_DIR",
        status=1,
    )
    one_line(
        run_module("pretrain", "--run", "new", "--tier", "smoke", base=run.base, check=False),
        "NANOCHAT_BASE_DIR",
    )


@pytest.mark.parametrize(
    "given, word", [("/etc/passwd", "passwd"), ("~nosuchuser/x", "no such home"), ("/proc/nowhere", "/proc")]
)
def test_a_base_folder_that_is_none(given, word):
    for done in (
        door("--tier", "smoke", NANOCHAT_BASE_DIR=given),
        run_module("scaling", "--tier", "smoke", "--run", "x", check=False, NANOCHAT_BASE_DIR=given),
    ):
        one_line(done, word, "give" if "~" in given else "NANOCHAT_BASE_DIR", status=1)


# --- devices, streams, Ctrl-C ---


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "meta", "xla", "abacus"])
def test_a_device_that_is_not_there(base, device):
    import torch

    if (
        torch.cuda.is_available()
        and device.startswith("cuda")
        or torch.backends.mps.is_available()
        and device == "mps"
    ):
        pytest.skip(f"{device} is here")
    one_line(
        run_module("pretrain", "--run", "x", "--tier", "smoke", "--device", device, base=base, check=False),
        f"device {device!r}",
        "cpu",
        status=1,
    )
    assert not base.exists(), "nothing is written before"


def test_a_device_that_is_not_there_for_every_door(smoke, base):
    for module, args in (
        ("chat", ("--prompt", "hi")),
        ("serve", ("--port", "0")),
        ("evaluate", ()),
        ("tasks", ()),
        ("sft", ()),
        ("grpo", ()),
    ):
        one_line(
            run_module(
                module, "--run", smoke.name, *args, base=smoke.base, check=False, NANOCHAT_DEVICE="meta"
            ),
            "device 'meta'",
            status=1,
        )
    done = door("--tier", "smoke", base=base, NANOCHAT_DEVICE="meta")
    one_line(done, "device 'meta'", status=1)
    assert not list(base.rglob("settings.json"))


def test_torchrun_with_more_processes_than_gpus(monkeypatch):
    import torch
    from nanochat.runs import UserError
    from nanochat.runtime import pick_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in dict(RANK="2", LOCAL_RANK="2", WORLD_SIZE="4").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="are 2.*start no more processes"):
        pick_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(pick_device("cuda")) == "cuda:1"


@pytest.mark.parametrize(
    "capability, hip, dtype",
    [
        ((6, 1), None, "float32"),
        ((7, 0), None, "float16"),
        ((7, 5), None, "float16"),
        ((8, 0), None, "bfloat16"),
        ((8, 9), None, "bfloat16"),
        ((9, 0), None, "bfloat16"),
        ((9, 4), "6.2", "bfloat16"),
    ],
)
def test_old_gpus_are_not_given_an_emulated_dtype(monkeypatch, capability, hip, dtype):
    import torch
    from nanochat.runtime import pick_dtype

    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # what torch says of a T4
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: capability)
    assert pick_dtype("cuda") == getattr(torch, dtype)


@pytest.mark.parametrize(
    "name, tera",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 836),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("AMD Instinct MI300X", 1307),
        ("Tesla T4", None),
        ("Abacus", None),
    ],
)
def test_the_peak_of_a_gpu_is_its_makers_or_unknown(monkeypatch, name, tera):
    import torch
    from nanochat.runtime import peak_flops

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: name)
    assert peak_flops(torch.bfloat16, "cuda") == (tera and tera * 1e12)
    assert peak_flops(torch.float32, "cuda") is None and peak_flops(torch.float32, "mps") is None


def shell(line, base, **env):
    "A line of shell with the tests' python as $PY"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=environment(base, PY=sys.executable, **env),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_stdout_that_takes_nothing(smoke):
    chat = f'"$PY" -m nanochat.chat --run {smoke.name} --prompt hi'
    report = f'"$PY" -m nanochat.scaling --run {smoke.name}'
    for line in (chat, report):
        one_line(shell(line + " > /dev/full", smoke.base), "stdout", "No space left", status=1)
        one_line(shell(line + " >&-", smoke.base), "stdout is closed", status=1)
    done = shell(f'set -o pipefail; "$PY" -m nanochat.scaling --run {smoke.name} | true', smoke.base)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr


def test_names_that_a_terminal_cannot_show(base, tmp_path):
    for name in ("книги", "\udcff\udcfe", "naïve"):
        folder = os.fsencode(tmp_path) + b"/" + os.fsencode(name)
        os.makedirs(folder)
        with open(folder + b"/a.txt", "w") as f:
            f.write("The old miller walked to the market.\n" * 500)
        for env in (dict(), dict(PYTHONIOENCODING="ascii"), dict(LC_ALL="C")):
            done = subprocess.run(
                [b"bash", b"speedrun.sh", b"plan", b"--tier", b"smoke", b"--corpus", folder],
                cwd=ROOT,
                capture_output=True,
                env=warm_environment(base, **env),
            )
            assert done.returncode == 0 and b"Traceback" not in done.stderr and b"2 layers" in done.stdout, (
                done.stderr
            )


def test_two_folders_in_another_script_are_two_runs(tmp_path):
    from dataclasses import replace
    from nanochat.runs import write_plan
    from nanochat.scaling import SMOKE, run_name

    names = [
        run_name("smoke", str(tmp_path / n), 2, 0)
        for n in (
            "книги",
            "тексты",
            "本",
            "my books",
            "my-books",
            "my_books",
            "\udcff",
            "a" * 70 + "1",
            "a" * 70 + "2",
        )
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", n) for n in names), names
    assert names[4] == "smoke-my-books-d2-s0", "a plain name stays as it is"
    for n, want in zip(("книги", "my books", "\udcff"), (names[0], names[3], names[6])):
        os.makedirs(folder := os.fsencode(tmp_path / n), exist_ok=True)
        d = tmp_path / "base" / "runs" / want
        d.mkdir(parents=True)
        write_plan(d, replace(SMOKE, corpus="other"))
        done = subprocess.run(
            [b"bash", b"speedrun.sh", b"--tier", b"smoke", b"--corpus", folder],
            cwd=ROOT,
            capture_output=True,
            env=warm_environment(tmp_path / "base"),
        )
        assert repr(want).encode() in done.stderr and done.returncode == 1, done.stderr


@pytest.mark.slow
def test_ctrl_c_while_torch_is_imported(smoke):
    signal_at = (0.3, 0.6, 1.0, 1.5)
    for seconds in signal_at:
        p = subprocess.Popen(
            [sys.executable, "-m", "nanochat.chat", "--run", smoke.name],
            cwd=ROOT,
            env=environment(smoke.base),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(seconds)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        assert "Traceback" not in err and p.returncode in (-signal.SIGINT, 130), (seconds, p.returncode, err)


# --- the caller's shell ---


def test_the_callers_shell_changes_nothing(base, tmp_path):
    (tmp_path / "h5").symlink_to(ROOT)
    (tmp_path / "link.sh").symlink_to(ROOT / "speedrun.sh")
    (tmp_path / "second.sh").symlink_to("link.sh")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("The old miller walked to the market.\n" * 500)
    for script in ("h5/speedrun.sh", "link.sh", "./second.sh"):
        done = door("plan", "--tier", "smoke", cwd=tmp_path, base=base, script=script, CDPATH=".:/tmp")
        assert done.returncode == 0 and "2 layers" in done.stdout, (script, done.stderr)
    done = door("plan", "--tier", "smoke", "--corpus", "texts", cwd=tmp_path, base=base, CDPATH="/:/tmp")
    assert done.returncode == 0 and str(tmp_path / "texts") in done.stdout, done.stderr
    for corpus in ("-", "-P", "--", "~nobody"):
        one_line(
            door(
                "plan",
                "--tier",
                "smoke",
                f"--corpus={corpus}",
                cwd=tmp_path,
                base=base,
                OLDPWD=str(tmp_path / "texts"),
            ),
            "no such folder",
            corpus,
            status=1,
        )


@pytest.mark.parametrize("shell", ["sh", "dash"])
def test_another_shell_starts_bash(base, shell):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    done = subprocess.run(
        [shell, "speedrun.sh", "runs"], cwd=ROOT, env=door_environment(base), capture_output=True, text=True
    )
    assert done.returncode == 0 and "no run yet" in done.stdout and not done.stderr, done.stderr


def test_line_ends_stay_those_of_unix():
    for file in ("speedrun.sh", "nanochat/runtime.py", "nbs/A2_runtime.ipynb"):
        said = subprocess.run(
            ["git", "-C", str(ROOT), "check-attr", "eol", file], capture_output=True, text=True
        ).stdout
        if said:
            assert said.strip().endswith("eol: lf"), said
        assert b"\r\n" not in (ROOT / file).read_bytes(), file


@pytest.mark.parametrize("option", ["--seed", "--depth", "--vocab_size"])
def test_numbers_that_no_computer_holds(base, option):
    one_line(door("plan", "--tier", "smoke", option, "9" * 23), option, "18 digits", status=2)


# --- the report ---


def test_the_report_tells_what_was_made_and_what_is_unknown(smoke, tmp_path):
    from nanochat.report import cost_table, gather, headline

    res = gather(smoke.dir)
    assert "unknown" not in cost_table(res)
    for r in res.stages.values():
        r.update(peak_flops=None, mfu=None)
    assert cost_table(res).count("| unknown |") == 3 and "peak" not in headline(res).split("memory")[1]
    res.tokenizer["vocab_size"] = 280
    assert "vocabulary 280 (512 planned: the text has no more pairs)" in headline(res)


def test_the_picture_of_appendix_A2_was_made_on_a_quiet_machine():
    "The sentence under it says that large matrices reach the ceiling; a busy neighbour draws something else"
    cells = json.loads((ROOT / "nbs" / "A2_runtime.ipynb").read_text())["cells"]
    cell = next(c for c in cells if "sizes, dtypes = " in "".join(c["source"]))
    text = next(
        "".join(o["data"]["text/plain"])
        for o in cell["outputs"]
        if "float32" in "".join(o.get("data", {}).get("text/plain", ""))
    )
    import ast

    for dtype, speed in ast.literal_eval(text).items():
        assert speed[-1] >= 0.8 * max(speed), f"{dtype}: {speed}"
        assert speed[0] < 0.5 * max(speed), "small matrices do not reach the ceiling"


# --- what belongs here, and what does not ---


def swap_stage(run):
    shutil.rmtree(run.last("sft"))
    shutil.copytree(run.last("mid"), run.dir / "sft" / "step_40")


def swap_step(run):
    newest = run.last("base")
    older = min((run.dir / "base").glob("step_*"), key=lambda p: int(p.name[5:]))
    shutil.rmtree(newest)
    older.rename(newest)


@pytest.mark.parametrize("swap,stage", [(swap_stage, "sft"), (swap_step, "base")])
def test_a_checkpoint_from_elsewhere_in_the_run_is_made_again(smoke, tmp_path, swap, stage):
    run = smoke.copy(tmp_path)
    want = run.weights(stage)
    swap(run)
    from nanochat.runs import step_is_done

    assert not step_is_done(run.dir, stage)
    done = door("--run", run.name, base=run.base)
    assert done.returncode == 0 and "is another checkpoint (it was written as" in done.stderr, done.stderr
    assert run.weights(stage) == want


def test_scores_of_another_run_are_made_again(smoke, tmp_path):
    "The seal is whole, and the name is right"
    from nanochat.runs import read_result, write_sealed

    run = smoke.copy(tmp_path)
    file = run.dir / "results" / "tasks_sft.json"
    said = json.loads(file.read_text())
    want, said["origin"] = json.loads(file.read_text())["scores"], "0" * 16
    for score in said["scores"].values():
        score["score"] = 0.99
    write_sealed(file, {k: v for k, v in said.items() if k != "sha256"})
    done = door("--run", run.name, base=run.base)
    assert done.returncode == 0 and "it is a result of another run" in done.stderr, done.stderr
    assert read_result(run.dir, "tasks_sft")["scores"] == want


def test_the_tokenizer_of_another_run_is_made_again(smoke, tmp_path):
    from nanochat.tokenizer import Tokenizer

    run = smoke.copy(tmp_path)
    file = run.dir / "tokenizer" / "tokenizer.json"
    want = file.read_bytes()
    Tokenizer.train(["the text of another run " * 50], 512).save(run.dir / "tokenizer")
    done = door("--run", run.name, base=run.base)
    assert (
        done.returncode == 0
        and "it is not the one that this run made" in done.stderr
        and file.read_bytes() == want
    ), done.stderr


def test_scores_are_those_of_the_checkpoint_that_is_there(smoke, tmp_path):
    "Fine-tuning is made longer on purpose: what was scored before is scored again"
    from nanochat.runs import checkpoint_mark, read_result

    run = smoke.copy(tmp_path)
    run.change(sft=dict(steps=run.settings["sft"]["steps"] + 5))
    assert door("--run", run.name, base=run.base).returncode == 0
    assert run.last("sft").name == "step_45"
    assert read_result(run.dir, "tasks_sft")["checkpoint"] == checkpoint_mark(run.dir, "sft")


@pytest.mark.parametrize(
    "name",
    [
        "settings.json",
        "results/tasks_sft.json",
        "results/summary.json",
        "results/summary.sha256",
        "tokenizer/tokenizer.json",
        ".lock",
        ".workers",
        "base/step_60/meta.json",
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(smoke, tmp_path, name):
    run = smoke.copy(tmp_path)
    (run.dir / name).unlink(missing_ok=True)
    os.mkfifo(run.dir / name)
    done = door("--run", run.name, base=run.base, timeout=120)
    assert "Traceback" not in done.stderr and (
        "no plain file" in done.stderr or "can't be read" in done.stderr
    ), done.stderr
    if done.returncode:
        one_line(done, Path(name).name, status=1)


NO_PLANS = dict(
    n_heads=2,
    depth="four",
    seq_len=-1,
    vocab_size=None,
    base=dict(steps=60),
    seed="x",
    corpus=5,
    eval_n="many",
    switches=[],
    dtype="int4",
    rl=dict(steps=6),
)


@pytest.mark.parametrize(
    "name", [*NO_PLANS, "no mid", "steps true", "steps below 0", "an empty mix", "a misspelt key"]
)
def test_settings_that_are_no_plan_are_one_line(smoke, tmp_path, name):
    "Written by hand and without a seal, as the message about seals advises"
    run = smoke.copy(tmp_path)
    settings = {k: v for k, v in run.settings.items() if k != "sha256"}
    match name:
        case "no mid":
            del settings["mid"]
        case "steps true":
            settings["base"]["steps"] = True
        case "steps below 0":
            settings["sft"]["steps"] = -3
        case "an empty mix":
            settings["sft"]["mix"] = {}
        case "a misspelt key":
            settings["mid"]["warmdwon"] = 0.5
        case _:
            settings[name] = NO_PLANS[name]
    (run.dir / "settings.json").write_text(json.dumps(settings))
    one_line(door("--run", run.name, base=run.base), "settings.json is damaged", status=1)
    if name in ("depth", "no mid"):
        one_line(
            run_module("tasks", "--run", run.name, "--stage", "sft", base=run.base, check=False),
            "settings.json is damaged",
        )


def test_a_summary_without_its_mark_is_made_again(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    file = run.dir / "results" / "summary.json"
    want = json.loads(file.read_text())["scores"]
    said = json.loads(file.read_text())
    said["scores"]["rl"]["code"]["score"] = 0.99
    file.write_text(json.dumps(said))
    file.with_suffix(".sha256").unlink()
    assert door("--run", run.name, base=run.base).returncode == 0
    assert json.loads(file.read_text())["scores"] == want


def test_a_reader_that_has_seen_enough_of_the_runs(smoke):
    done = subprocess.run(
        f"bash {ROOT}/speedrun.sh runs | head -c 1",
        shell=True,
        env=door_environment(smoke.base),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_the_list_of_runs_while_a_run_makes_and_removes_files(base, monkeypatch, capsys):
    "A file or a folder that goes between two looks is not an error, and what stays is counted"
    from nanochat.runs import list_runs, run_dir, show_runs

    for run in ("one", "two"):
        folder = run_dir(run)
        (folder / "base" / "step_000010.tmp").mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
        (folder / "base" / "weights").write_bytes(bytes(2_000_000))
        (folder / "base" / "step_000010.tmp" / "part").write_bytes(bytes(100))
    real, gone = Path.stat, []

    def stat(path, **kw):
        "What is looked at as a file of a step that is being made has just got its name, as has the log"
        if path.name in ("part", "log.jsonl") and path not in gone:
            gone.append(path)
            shutil.rmtree(path.parent if path.name == "part" else path, ignore_errors=True)
        return real(path, **kw)

    monkeypatch.setattr(Path, "stat", stat)
    assert sorted(list_runs()) == ["one", "two"]
    show_runs()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 and all("2.0 MB" in row for row in rows) and gone


def test_a_step_that_lives_on_is_seen_without_its_file(base):
    "Somebody removes .workers, and .lock too"
    from nanochat.runs import UserError, run_dir, run_lock

    rdir = run_dir("orphan")
    code = (
        "import sys, time\nfrom nanochat.runs import run_dir, run_lock\n"
        "with run_lock(run_dir('orphan')):\n print('in', flush=True)\n time.sleep(60)"
    )
    with run_lock(rdir):
        step = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment(base, NANOCHAT_LOCK=os.environ["NANOCHAT_LOCK"]),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert step.stdout.readline() == "in\n"
    try:
        for name in (".workers", ".lock"):
            (rdir / name).unlink()
            with pytest.raises(UserError, match="is still running"):
                with run_lock(rdir):
                    pass
        assert "still runs" in door("runs", base=base).stdout or not (rdir / "settings.json").exists()
    finally:
        step.kill()
        step.wait()
    with run_lock(rdir):
        pass


# --- a large run ---


def write_sparse(size):
    "Writes a file of so many bytes, all of them a hole: it takes no disk, and no time"

    def write(path):
        with open(path, "wb") as file:
            file.truncate(int(size))

    return write


def test_a_finished_run_of_full_size_is_recognised_in_seconds(base, monkeypatch):
    "Depth 24: nobody reads its files again that were read through when their stages ended"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    plan, rdir = recipe_plan(plan_tier("full")), run_dir("large")
    write_plan(rdir, plan)
    sizes = {"model.safetensors": 4 * all_params(model_config(plan))}
    sizes["optim.safetensors"] = state_of(model_config(plan), 1)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "sha256_file", lambda path: "0" * 64)  # to read a hole through takes a minute
        for stage in TRAIN:
            step = plan.stage(stage).steps
            meta = dict(stage=stage, step=step, origin=runs.origin(rdir))
            files = {name: write_sparse(size) for name, size in sizes.items()}
            runs.write_checked(rdir / stage / f"step_{step}", files, meta)
            assert runs.last_checkpoint(rdir, stage), "as a stage does that ends"
    contents = ["a pattern", {}, {}]
    seal = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    (rdir / "tokenizer").mkdir()
    said = dict(zip(("pattern", "special_tokens", "ranks"), contents), sha256=seal)
    (rdir / "tokenizer" / "tokenizer.json").write_text(json.dumps(said))
    for step in runs.ROAD[1:-1]:
        runs.save_result(rdir, step, dict(seconds=1.0))
    runs.update_summary(rdir, seed=0)
    (rdir / "report.md").write_text("# A report\n")
    there = [path.stat() for path in rdir.rglob("*.safetensors")]
    assert sum(stat.st_size for stat in there) > 40e9 and sum(stat.st_blocks for stat in there) < 2000
    began = time.time()
    done = door("--run", "large", base=base, timeout=60)
    seconds = time.time() - began
    assert done.returncode == 0 and "run large is finished already" in done.stderr, done.stderr[-2000:]
    print(f"recognised in {seconds:.2f} s")
    assert seconds < 5
