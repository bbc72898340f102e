"Runs that were damaged, killed, locked, lost or kept where nothing can be written: one clear line each, and a way on"
import contextlib, errno, fcntl, io, json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
from conftest import ROOT, Run, door, door_environment, environment, flip, leftovers, lines_of, one_line, run_module

# --- one lock for a whole job, torchrun's workers included ---

# stands in for python: pretraining goes through torchrun, two processes, everything else as it is
TORCHRUN = '''#!/bin/sh
if [ "$1 $2" = "-m nanochat.pretrain" ]; then
  shift 2
  exec {python} -m torch.distributed.run --nproc_per_node=2 --master_port=0 --rdzv_backend=c10d --rdzv_endpoint=127.0.0.1:0 -m nanochat.pretrain -- "$@"
fi
exec {python} "$@"
'''

@pytest.fixture
def two_processes(tmp_path):
    "Variables with which the door pretrains through torchrun"
    stand_in = tmp_path/"python"
    stand_in.write_text(TORCHRUN.replace("{python}", sys.executable))
    stand_in.chmod(0o755)
    return dict(PYTHON=str(stand_in), OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu")

def start(run, **env):
    "The main door in a process group of its own"
    return subprocess.Popen(["bash", str(ROOT/"speedrun.sh"), "--run", run.name], env=door_environment(run.base, **env), start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def wait_for(what, seconds=120):
    "Wait until a condition holds"
    end = time.time()+seconds
    while not what() and time.time() < end: time.sleep(0.05)
    assert what(), "it never came"

def alive(pid):
    "Does a process run (and is not dead and unburied)?"
    try: return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError: return False

@pytest.mark.slow
def test_the_lock_lets_torchruns_workers_in_and_outlives_its_holder(smoke, tmp_path, two_processes):
    run = smoke.before("base", tmp_path/"base")
    settings = run.settings
    settings.pop("sha256")
    settings["base"] |= dict(steps=4000, save_every=20)                  # long enough to be met in the middle
    (run.dir/"settings.json").write_text(json.dumps(settings))
    job = start(run, **two_processes)
    try:
        wait_for(lambda: len(lines_of(run.dir, "base")) >= 3 or job.poll() is not None)
        assert job.poll() is None, job.stderr.read()
        assert (run.dir/".lock").read_text().split()[0] == str(job.pid)
        one_line(door("--run", run.name, base=run.base), "in use by process", str(job.pid), status=1)
        worker = int((run.dir/".workers").read_text())
        assert worker != job.pid and alive(worker)
        os.kill(job.pid, signal.SIGKILL)                                 # the holder alone; its step goes on
        job.wait()
        steps = len(lines_of(run.dir, "base"))
        wait_for(lambda: len(lines_of(run.dir, "base")) > steps)
        for args in (("--run", run.name), ("clean", run.name)):
            one_line(door(*args, base=run.base), "last step", str(worker), "still running", status=1)
        one_line(run_module("evaluate", "--run", run.name, "--stage", "tokenizer", base=run.base, check=False), "still running", str(worker))
        assert f"process {worker}" in door("runs", base=run.base).stdout
    finally: os.killpg(job.pid, signal.SIGKILL)
    with contextlib.suppress(UnboundLocalError, ProcessLookupError): os.kill(worker, signal.SIGKILL)      # torchrun gave it a session of its own
    wait_for(lambda: not alive(worker))
    settings["base"]["steps"] = 60
    shutil.rmtree(run.dir/"base", ignore_errors=True)
    (run.dir/"settings.json").write_text(json.dumps(settings))
    def busy():
        with open(run.dir/".workers") as f:
            try: fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)
            except OSError: return True
    wait_for(lambda: not busy())
    run.train("base")
    assert len(lines_of(run.dir, "base")) == 60 and not leftovers(run.dir)

def test_a_step_of_a_dead_job_is_refused(base):
    "Its token is in no lock file that somebody holds"
    from nanochat.runtime import UserError, run_dir, run_lock
    rdir = run_dir("one")
    with run_lock(rdir): old = os.environ["NANOCHAT_LOCK"]
    assert "NANOCHAT_LOCK" not in os.environ
    os.environ["NANOCHAT_LOCK"] = old
    try:
        with pytest.raises(UserError, match="no longer holds it"):
            with run_lock(rdir): pass
        with run_lock(run_dir("two")): pass                              # another run is none of its business
        with open(rdir/".lock", "a+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.truncate(0)
            f.write("4711 "+"0"*32)
            f.flush()
            with pytest.raises(UserError, match="in use by process 4711"):
                with run_lock(rdir): pass
    finally: del os.environ["NANOCHAT_LOCK"]

def test_every_rank_may_take_the_lock(base, monkeypatch):
    "Under torchrun by hand the first process holds it, the others pass"
    from nanochat.runtime import run_dir, run_lock
    for name, value in dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0").items(): monkeypatch.setenv(name, value)
    code = "from nanochat.runtime import run_dir, run_lock\nwith run_lock(run_dir('r')): print('in')"
    with run_lock(run_dir("r")):
        alone = environment(base)
        other = subprocess.run([sys.executable, "-c", code], env={**alone, "RANK": "1", "WORLD_SIZE": "2"}, capture_output=True, text=True, cwd=ROOT)
        assert other.stdout == "in\n", other.stderr
        same = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, cwd=ROOT)
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
@pytest.mark.parametrize("at", [1, 2])      # the first file that is written, and one inside a checkpoint
def test_a_kill_in_mid_write_leaves_parts_that_the_next_start_removes(smoke, tmp_path, at):
    run = smoke.before("mid", tmp_path)
    with open(run.dir/"log.jsonl", "a") as f: f.write("half a li")       # so that the log is written first
    done = subprocess.run([sys.executable, "-c", KILLED, str(at), "--run", run.name, "--stage", "mid"], cwd=ROOT, env=environment(run.base), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    parts = leftovers(run.dir)
    assert parts and all(p.name.endswith(".part") or p.parent.name.endswith(".part") for p in parts), parts
    again = run.train("mid")
    assert not leftovers(run.dir), again.stderr
    assert run.weights("mid") == smoke.weights("mid")

def test_the_door_removes_the_parts_too(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    code = "import os, signal, sys\nos.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\nfrom nanochat.runtime import atomic_write, write_checked\nfrom pathlib import Path\n"
    for write in ("atomic_write(Path(sys.argv[1])/'results'/'new.json', '{}')", "write_checked(Path(sys.argv[1])/'rl'/'step_9', {'a': b'x'}, {})"):
        done = subprocess.run([sys.executable, "-c", code+write, str(run.dir)], cwd=ROOT, env=environment(run.base), capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert len([p for p in leftovers(run.dir) if p.name.endswith(".part")]) == 2
    assert door("--run", run.name, base=run.base).returncode == 0
    assert not leftovers(run.dir)

# --- forty kinds of damage ---

def forge(checkpoint, meta):
    "Give a checkpoint another meta.json, with the fingerprint that fits it"
    import hashlib
    text = meta if isinstance(meta, str) else json.dumps(meta)
    (checkpoint/"meta.json").write_text(text)
    (checkpoint/"meta.sha256").write_text(hashlib.sha256(text.encode()).hexdigest()+"\n")

def another_digit(file):
    "Change the last digit that is no part of a fingerprint"
    text = file.read_text()
    at = [m.start() for m in re.finditer(r"\d", text.split('"sha256"')[0])][-1]
    file.write_text(text[:at]+str((int(text[at])+1) % 10)+text[at+1:])

def in_place_of(file, folder=False):
    "A folder where a file should be, or the other way round"
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    file.mkdir() if folder else file.write_text("not a folder")

def last_line(file, *lines):
    with open(file, "ab") as f: f.write(b"".join(line.encode() if isinstance(line, str) else line for line in lines))

# what is damaged: (how, how the line of the next start must begin, a word in it). "warning": it goes on by itself; "error": it says what to do
DAMAGE = {
    "meta without files":        (lambda r: forge(r.last("rl"), {"step": 6}), "warning", "lists no files"),
    "meta with empty files":     (lambda r: forge(r.last("mid"), {"files": {}}), "warning", "lists no files"),
    "meta a list":               (lambda r: forge(r.last("sft"), [1, 2]), "warning", "lists no files"),
    "meta a number":             (lambda r: forge(r.last("rl"), "7"), "warning", "lists no files"),
    "meta no JSON, well hashed": (lambda r: forge(r.last("rl"), "{"), "warning", "no JSON"),
    "meta nested for ever":      (lambda r: forge(r.last("rl"), "["*100_000), "warning", "no JSON"),
    "meta lists of no files":    (lambda r: forge(r.last("rl"), {"files": {"model.safetensors": 5}}), "warning", "no size"),
    "meta gone":                 (lambda r: (r.last("rl")/"meta.json").unlink(), "warning", "meta.json"),
    "meta a folder":             (lambda r: in_place_of(r.last("rl")/"meta.json", folder=True), "warning", "meta.json"),
    "weights a folder":          (lambda r: in_place_of(r.last("rl")/"model.safetensors", folder=True), "warning", "model.safetensors"),
    "weights gone":              (lambda r: (r.last("sft")/"model.safetensors").unlink(), "warning", "model.safetensors"),
    "a bit of the weights":      (lambda r: flip(r.last("rl")/"model.safetensors"), "warning", "model.safetensors"),
    "a file called step_7":      (lambda r: (r.dir/"rl"/"step_7").write_text("x"), None, ""),
    "a file called step_999":    (lambda r: (r.dir/"mid"/"step_999").write_text("x"), None, ""),
    "step_x and step_²":         (lambda r: [(r.dir/"rl"/n).mkdir() for n in ("step_x", "step_²", "step_007", "step_"+"9"*5000 if False else "step_-1")], None, ""),
    "an empty later step":       (lambda r: (r.dir/"rl"/"step_999").mkdir(), "warning", "step_999"),
    "a stage is a file":         (lambda r: in_place_of(r.dir/"rl"), "error", "rl is a file"),
    "settings gone":             (lambda r: (r.dir/"settings.json").unlink(), "error", "settings.json is gone"),
    "settings cut":              (lambda r: (r.dir/"settings.json").write_text('{"tier": "sm'), "error", "settings.json"),
    "settings {}":               (lambda r: (r.dir/"settings.json").write_text("{}"), "error", "settings.json"),
    "settings []":               (lambda r: (r.dir/"settings.json").write_text("[]"), "error", "settings.json"),
    "settings a text":           (lambda r: (r.dir/"settings.json").write_text('"smoke"'), "error", "settings.json"),
    "settings with a part only": (lambda r: (r.dir/"settings.json").write_text('{"tier": "smoke", "corpus": "world"}'), "error", "settings.json"),
    "settings without steps":    (lambda r: (r.dir/"settings.json").write_text(json.dumps({**r.settings, "base": {}, "sha256": None})), "error", "settings.json"),
    "a digit of the settings":   (lambda r: another_digit(r.dir/"settings.json"), "error", "settings.json"),
    "settings a folder":         (lambda r: in_place_of(r.dir/"settings.json", folder=True), "error", "settings.json"),
    "settings not UTF-8":        (lambda r: (r.dir/"settings.json").write_bytes(b"\xff\xfe{}"), "error", "settings.json"),
    "a result is a text":        (lambda r: (r.dir/"results"/"mid.json").write_text('"fine"'), "warning", "mid.json"),
    "a result is a list":        (lambda r: (r.dir/"results"/"tasks_sft.json").write_text("[]"), "warning", "tasks_sft.json"),
    "a result is null":          (lambda r: (r.dir/"results"/"tokenizer.json").write_text("null"), "warning", "tokenizer.json"),
    "a result is cut":           (lambda r: (r.dir/"results"/"evaluate_base.json").write_text('{"bpb'), "warning", "evaluate_base.json"),
    "a digit of a result":       (lambda r: another_digit(r.dir/"results"/"base.json"), "warning", "base.json"),
    "a result not UTF-8":        (lambda r: (r.dir/"results"/"rl.json").write_bytes(b"\xff\xff"), "warning", "rl.json"),
    "a result is a folder":      (lambda r: in_place_of(r.dir/"results"/"rl.json", folder=True), "error", "rl.json is a folder"),
    "results is a file":         (lambda r: in_place_of(r.dir/"results"), "error", "results is a file"),
    "summary cut":               (lambda r: (r.dir/"results"/"summary.json").write_text('{"scores'), "warning", "summary.json"),
    "summary {}":                (lambda r: (r.dir/"results"/"summary.json").write_text("{}"), "warning", "summary.json"),
    "summary without scores":    (lambda r: (r.dir/"results"/"summary.json").write_text('{"bpb": {}}'), "warning", "summary.json"),
    "a digit of the summary":    (lambda r: another_digit(r.dir/"results"/"summary.json"), "warning", "summary.json"),
    "summary gone":              (lambda r: (r.dir/"results"/"summary.json").unlink(), None, ""),
    "log not UTF-8":             (lambda r: last_line(r.dir/"log.jsonl", b'{"stage": "b\xff\xfe"}\n'), None, ""),
    "log of numbers and lists":  (lambda r: last_line(r.dir/"log.jsonl", "7\n[1, 2]\n\"x\"\nnull\n{}\n", '{"stage": "rl", "step": "six"}\n{"stage": 4, "step": 1, "loss": 1, "tokens": 1}\n'), None, ""),
    "log without losses":        (lambda r: last_line(r.dir/"log.jsonl", '{"stage": "base", "step": 7}\n{"stage": "base", "step": 8, "loss": null, "tokens": 9}\n'), None, ""),
    "log is a folder":           (lambda r: in_place_of(r.dir/"log.jsonl", folder=True), "error", "log.jsonl is a folder"),
    "log gone":                  (lambda r: (r.dir/"log.jsonl").unlink(), None, ""),
    "tokenizer cut":             (lambda r: (r.dir/"tokenizer"/"tokenizer.json").write_text('{"ranks'), "warning", "tokenizer.json"),
    "a digit of the tokenizer":  (lambda r: another_digit(r.dir/"tokenizer"/"tokenizer.json"), "warning", "tokenizer.json"),
    "tokenizer is a file":       (lambda r: in_place_of(r.dir/"tokenizer"), "error", "tokenizer is a file"),
    "report gone":               (lambda r: (r.dir/"report.md").unlink(), None, ""),
}

def clear(done, begins, word):
    "What a start says of a damage: its own line, and no traceback"
    assert "Traceback" not in done.stderr, done.stderr
    if begins == "error": one_line(done, word, status=1)
    else:
        assert done.returncode == 0, done.stderr
        said = [l for l in done.stderr.splitlines() if l.startswith("warning: ")]
        assert (word in " ".join(said)) if begins else not said, done.stderr

@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_one_line_and_a_way_on(smoke, tmp_path, name):
    harm, begins, word = DAMAGE[name]
    run = smoke.copy(tmp_path)
    harm(run)
    clear(door("--run", run.name, base=run.base), begins, word)
    if begins == "error":                                       # the line named a file to put back or to move away: that is the way on
        bad = run.dir/{"settings": "settings.json", "results": "results", "tokenizer": "tokenizer", "log": "log.jsonl"}.get(name.split()[0], "rl" if "stage" in name else "results/rl.json")
        if bad.exists(): bad.rename(tmp_path/"aside")
        good = smoke.dir/bad.relative_to(run.dir)
        if good.name == "settings.json": shutil.copy(good, bad)
        assert door("--run", run.name, base=run.base).returncode == 0
    last = door("--run", run.name, base=run.base)
    assert last.returncode == 0 and "finished already" in last.stderr, last.stderr
    summary, want = (json.loads((r.dir/"results"/"summary.json").read_text()) for r in (run, smoke))
    same = ("scores", "bpb", "tokens", "params", "seed")
    assert {k: summary[k] for k in same} == {k: want[k] for k in same}
    assert (run.dir/"report.md").exists() and not leftovers(run.dir)

DTYPE = {"cut": '{"dty', "empty": "", "{}": "{}", "unknown": '{"dtype": "float8", "threads": 1}', "no torch dtype": '{"dtype": "nn", "threads": 1}',
         "threads a text": '{"dtype": "float32", "threads": "two"}', "threads 0": '{"dtype": "float32", "threads": 0}', "a list": '["float32"]', "not UTF-8": "\udcff"}

@pytest.mark.slow
@pytest.mark.parametrize("text", DTYPE.values(), ids=DTYPE)
def test_a_damaged_dtype_is_that_of_the_checkpoints(smoke, tmp_path, text):
    run = smoke.before("rl", tmp_path)
    was = json.loads((run.dir/"dtype.json").read_text())["dtype"]
    (run.dir/"dtype.json").write_bytes(text.encode(errors="surrogateescape"))
    done = run.train("rl")
    assert "dtype.json is damaged" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((run.dir/"dtype.json").read_text())["dtype"] == was

def test_settings_are_never_planned_anew_over_old_checkpoints(smoke, tmp_path):
    for lost in ("settings.json",):
        run = smoke.before("mid", tmp_path/"a")
        (run.dir/lost).unlink()
        for module, args in (("pretrain", ()), ("scaling", ()), ("sft", ("--stage", "mid")), ("evaluate", ()), ("tasks", ("--stage", "base"))):
            one_line(run_module(module, "--run", run.name, *args, base=run.base, check=False), "settings.json is gone", "clean")
        one_line(door("--run", run.name, "--tier", "laptop", base=run.base), "settings.json is gone", status=1)
        assert not (run.dir/lost).exists()
        assert "settings lost" in door("runs", base=run.base).stdout
        (run.dir/lost).write_text("{}")
        assert "settings damaged" in door("runs", base=run.base).stdout
        assert door("clean", run.name, base=run.base).returncode == 0 and not run.dir.exists()

def test_a_setting_changed_on_purpose_is_sealed_again(smoke, tmp_path):
    run = smoke.before("mid", tmp_path)
    settings = run.settings
    assert settings.pop("sha256")
    settings["eval_n"] = 8
    (run.dir/"settings.json").write_text(json.dumps(settings))
    run_module("evaluate", "--run", run.name, "--stage", "base", base=run.base)
    assert run.settings["eval_n"] == 8 and run.settings["sha256"]
    another_digit(run.dir/"settings.json")
    one_line(run_module("evaluate", "--run", run.name, "--stage", "mid", base=run.base, check=False), "sha256 differs")

def test_the_summary_can_be_made_again(smoke, tmp_path):
    from nanochat.runtime import read_summary, rebuilt_summary
    kept, again = read_summary(smoke.dir), rebuilt_summary(smoke.dir)
    for part in ("scores", "bpb", "tokens", "params", "seed"): assert again[part] == kept[part], part
    assert again["seconds"].keys() == kept["seconds"].keys()
    for stage, seconds in kept["seconds"].items(): assert abs(again["seconds"][stage]-seconds) < 1e-6+1e-3*seconds, stage
    assert 0 < again["peak_rss_mb"] <= kept["peak_rss_mb"]

def test_results_say_when_a_digit_is_changed(base):
    from nanochat.runtime import Damaged, read_result, run_dir, save_result
    for result in (dict(a=1), dict(loss=2.5, list=[1, {"x": None}]), {}, dict(nan=float("nan")), {"é": "ü"}):
        save_result(run_dir("r"), "x", result)
        assert str(read_result(run_dir("r"), "x")) == str(result)
    file = run_dir("r")/"results"/"y.json"
    save_result(run_dir("r"), "y", dict(loss=2.5))
    text = file.read_text()
    for i, c in enumerate(text.split('"sha256"')[0]):
        if c.isdigit():
            file.write_text(text[:i]+str((int(c)+1) % 10)+text[i+1:])
            with pytest.raises(Damaged, match="y.json"): read_result(run_dir("r"), "y")

# --- removed, read-only, and where nothing may be written ---

@pytest.mark.slow
def test_the_folder_removed_while_it_runs(smoke, tmp_path):
    run = smoke.before("mid", tmp_path)
    job = subprocess.Popen([sys.executable, "-m", "nanochat.sft", "--run", run.name, "--stage", "mid"], cwd=ROOT, env=environment(run.base), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(lines_of(run.dir, "mid")) >= 2 or job.poll() is not None)
    run.dir.rename(tmp_path/"elsewhere")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 1 and "Traceback" not in err, err
    assert [l for l in err.splitlines() if l.startswith("error: ")][0].count(run.name) and "removed or moved" in err
    assert not run.dir.exists(), "nothing is begun again by what is written last"

@pytest.fixture
def read_only(smoke, tmp_path):
    "A finished run on a file system that is mounted for reading only"
    disk = tmp_path/"disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)], capture_output=True).returncode: pytest.skip("mounting is not allowed here")
    try:
        run = smoke.copy(disk)
        (run.dir/".lock").write_text("4711 long-gone")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield run
    finally: subprocess.run(["umount", "-l", str(disk)])

@pytest.mark.slow
def test_a_store_that_can_only_be_read(read_only):
    run = read_only
    listed = door("runs", base=run.base)
    assert "finished" in listed.stdout and "4711" not in listed.stdout, "a process long gone uses nothing"
    assert "finished already" in door("--run", run.name, base=run.base).stderr
    chat = door("chat", "--run", run.name, base=run.base, stdin="Who are you?\n", timeout=120)
    assert chat.returncode == 0 and chat.stdout.strip(), chat.stderr
    report = door("report", "--run", run.name, base=run.base)
    assert report.returncode == 0 and "## Cost" in report.stdout and "can't be written" in report.stderr and "Traceback" not in report.stderr
    one_line(door("clean", run.name, base=run.base), "can't be removed", status=1)
    for module, args in (("evaluate", ("--stage", "base")), ("tasks", ("--stage", "rl")), ("grpo", ()), ("sft", ()), ("pretrain", ())):
        one_line(run_module(module, "--run", run.name, *args, base=run.base, check=False), "can't be written", "chat, serve and report")
    one_line(door("--tier", "smoke", "--run", "new", base=run.base), "can't be written", "NANOCHAT_BASE_DIR", status=1)
    one_line(run_module("pretrain", "--run", "new", "--tier", "smoke", base=run.base, check=False), "NANOCHAT_BASE_DIR")

@pytest.mark.parametrize("given, word", [("/etc/passwd", "passwd"), ("~nosuchuser/x", "no such home"), ("/proc/nowhere", "/proc")])
def test_a_base_folder_that_is_none(given, word):
    for done in (door("--tier", "smoke", NANOCHAT_BASE_DIR=given), run_module("scaling", "--tier", "smoke", "--run", "x", check=False, NANOCHAT_BASE_DIR=given)):
        one_line(done, word, "give" if "~" in given else "NANOCHAT_BASE_DIR", status=1)

# --- devices, streams, Ctrl-C ---

@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "meta", "xla", "abacus"])
def test_a_device_that_is_not_there(base, device):
    import torch
    if torch.cuda.is_available() and device.startswith("cuda") or torch.backends.mps.is_available() and device == "mps": pytest.skip(f"{device} is here")
    one_line(run_module("pretrain", "--run", "x", "--tier", "smoke", "--device", device, base=base, check=False), f"device {device!r}", "cpu", status=1)
    assert not base.exists(), "nothing is written before"

def test_a_device_that_is_not_there_for_every_door(smoke, base):
    for module, args in (("chat", ("--prompt", "hi")), ("serve", ("--port", "0")), ("evaluate", ()), ("tasks", ()), ("sft", ()), ("grpo", ())):
        one_line(run_module(module, "--run", smoke.name, *args, base=smoke.base, check=False, NANOCHAT_DEVICE="meta"), "device 'meta'", status=1)
    done = door("--tier", "smoke", base=base, NANOCHAT_DEVICE="meta")
    one_line(done, "device 'meta'", status=1)
    assert not list(base.rglob("settings.json"))

def test_torchrun_with_more_processes_than_gpus(monkeypatch):
    import torch
    from nanochat.runtime import UserError, pick_device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in dict(RANK="2", LOCAL_RANK="2", WORLD_SIZE="4").items(): monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="are 2.*start no more processes"): pick_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(pick_device("cuda")) == "cuda:1"

@pytest.mark.parametrize("capability, hip, dtype", [((7, 0), None, "float32"), ((7, 5), None, "float32"), ((8, 0), None, "bfloat16"), ((8, 9), None, "bfloat16"), ((9, 0), None, "bfloat16"), ((9, 4), "6.2", "bfloat16")])
def test_old_gpus_are_not_given_emulated_bfloat16(monkeypatch, capability, hip, dtype):
    import torch
    from nanochat.runtime import pick_dtype
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)          # what torch says of a T4
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: capability)
    assert pick_dtype("cuda") == getattr(torch, dtype)

@pytest.mark.parametrize("name, tera", [
    ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989), ("NVIDIA H200 NVL", 836), ("NVIDIA GH200 480GB", 989),
    ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None), ("NVIDIA A10", 125),
    ("NVIDIA A10G", 70), ("NVIDIA L4", 121), ("NVIDIA L40", 181), ("NVIDIA L40S", 362), ("NVIDIA GeForce RTX 3090", 71), ("NVIDIA GeForce RTX 3090 Ti", None),
    ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA GeForce RTX 4090 D", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA GeForce RTX 5090", 209.5), ("AMD Instinct MI300X", 1307), ("Tesla T4", None), ("Abacus", None)])
def test_the_peak_of_a_gpu_is_its_makers_or_unknown(monkeypatch, name, tera):
    import torch
    from nanochat.runtime import peak_flops
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: name)
    assert peak_flops(torch.bfloat16, "cuda") == (tera and tera*1e12)
    assert peak_flops(torch.float32, "cuda") is None and peak_flops(torch.float32, "mps") is None

def shell(line, base, **env):
    "A line of shell with the tests' python as $PY"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment(base, PY=sys.executable, **env), capture_output=True, text=True, timeout=120)

def test_a_stdout_that_takes_nothing(smoke):
    chat = f'"$PY" -m nanochat.chat --run {smoke.name} --prompt hi'
    report = f'"$PY" -m nanochat.scaling --run {smoke.name}'
    for line in (chat, report):
        one_line(shell(line+" > /dev/full", smoke.base), "stdout", "No space left", status=1)
        one_line(shell(line+" >&-", smoke.base), "stdout is closed", status=1)
    done = shell(f'set -o pipefail; "$PY" -m nanochat.scaling --run {smoke.name} | true', smoke.base)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr

def test_names_that_a_terminal_cannot_show(base, tmp_path):
    for name in ("книги", "\udcff\udcfe", "naïve"):
        folder = os.fsencode(tmp_path)+b"/"+os.fsencode(name)
        os.makedirs(folder)
        with open(folder+b"/a.txt", "w") as f: f.write("The old miller walked to the market.\n"*500)
        for env in (dict(), dict(PYTHONIOENCODING="ascii"), dict(LC_ALL="C")):
            done = subprocess.run([b"bash", b"speedrun.sh", b"plan", b"--tier", b"smoke", b"--corpus", folder], cwd=ROOT, capture_output=True, env=door_environment(base, **env))
            assert done.returncode == 0 and b"Traceback" not in done.stderr and b"2 layers" in done.stdout, done.stderr

def test_two_folders_in_another_script_are_two_runs(tmp_path):
    from nanochat.scaling import run_name
    names = [run_name("smoke", str(tmp_path/n), 2, 0) for n in ("книги", "тексты", "本", "my books", "my-books", "my_books", "\udcff", "a"*70+"1", "a"*70+"2")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", n) for n in names), names
    assert names[4] == "smoke-my-books-d2-s0", "a plain name stays as it is"
    for n, want in zip(("книги", "my books", "\udcff"), (names[0], names[3], names[6])):
        os.makedirs(folder := os.fsencode(tmp_path/n), exist_ok=True)
        d = tmp_path/"base"/"runs"/want
        d.mkdir(parents=True)
        (d/"settings.json").write_text(json.dumps(dict(tier="smoke", corpus="other", seed=0, depth=2, base=dict(steps=1))))
        done = subprocess.run([b"bash", b"speedrun.sh", b"--tier", b"smoke", b"--corpus", folder], cwd=ROOT, capture_output=True, env=door_environment(tmp_path/"base"))
        assert repr(want).encode() in done.stderr and done.returncode == 1, done.stderr

@pytest.mark.slow
def test_ctrl_c_while_torch_is_imported(smoke):
    signal_at = (0.3, 0.6, 1.0, 1.5)
    for seconds in signal_at:
        p = subprocess.Popen([sys.executable, "-m", "nanochat.chat", "--run", smoke.name], cwd=ROOT, env=environment(smoke.base), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        assert "Traceback" not in err and p.returncode in (-signal.SIGINT, 130), (seconds, p.returncode, err)

# --- the caller's shell ---

def test_the_callers_shell_changes_nothing(base, tmp_path):
    (tmp_path/"h5").symlink_to(ROOT)
    (tmp_path/"link.sh").symlink_to(ROOT/"speedrun.sh")
    (tmp_path/"second.sh").symlink_to("link.sh")
    (tmp_path/"texts").mkdir()
    (tmp_path/"texts"/"a.txt").write_text("The old miller walked to the market.\n"*500)
    for script in ("h5/speedrun.sh", "link.sh", "./second.sh"):
        done = door("plan", "--tier", "smoke", cwd=tmp_path, base=base, script=script, CDPATH=".:/tmp")
        assert done.returncode == 0 and "2 layers" in done.stdout, (script, done.stderr)
    done = door("plan", "--tier", "smoke", "--corpus", "texts", cwd=tmp_path, base=base, CDPATH="/:/tmp")
    assert done.returncode == 0 and str(tmp_path/"texts") in done.stdout, done.stderr
    for corpus in ("-", "-P", "--", "~nobody"):
        one_line(door("plan", "--tier", "smoke", f"--corpus={corpus}", cwd=tmp_path, base=base, OLDPWD=str(tmp_path/"texts")), "no such folder", corpus, status=1)

@pytest.mark.parametrize("shell", ["sh", "dash"])
def test_another_shell_starts_bash(base, shell):
    if not shutil.which(shell): pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "speedrun.sh", "runs"], cwd=ROOT, env=door_environment(base), capture_output=True, text=True)
    assert done.returncode == 0 and "no run yet" in done.stdout and not done.stderr, done.stderr

def test_line_ends_stay_those_of_unix():
    for file in ("speedrun.sh", "nanochat/runtime.py", "nbs/00_runtime.ipynb"):
        said = subprocess.run(["git", "-C", str(ROOT), "check-attr", "eol", file], capture_output=True, text=True).stdout
        if said: assert said.strip().endswith("eol: lf"), said
        assert b"\r\n" not in (ROOT/file).read_bytes(), file

@pytest.mark.parametrize("option", ["--seed", "--depth", "--vocab_size"])
def test_numbers_that_no_computer_holds(base, option):
    one_line(door("plan", "--tier", "smoke", option, "9"*23), option, "18 digits", status=2)

# --- the report ---

def test_the_report_tells_what_was_made_and_what_is_unknown(smoke, tmp_path):
    from nanochat.report import cost_table, gather, headline
    res = gather(smoke.dir)
    assert "unknown" not in cost_table(res)
    for r in res["stages"].values(): r.update(peak_flops=None, mfu=None)
    assert cost_table(res).count("| unknown |") == 3 and "peak" not in headline(res).split("memory")[1]
    res["tokenizer"]["vocab_size"] = 280
    assert "vocabulary 280 (512 planned: the text has no more pairs)" in headline(res)

def test_the_picture_of_chapter_00_was_made_on_a_quiet_machine():
    "The sentence under it says that large matrices reach the ceiling; a busy neighbour would have drawn something else"
    cells = json.loads((ROOT/"nbs"/"00_runtime.ipynb").read_text())["cells"]
    cell = next(c for c in cells if "sizes, dtypes = " in "".join(c["source"]))
    text = next("".join(o["data"]["text/plain"]) for o in cell["outputs"] if "float32" in "".join(o.get("data", {}).get("text/plain", "")))
    import ast
    for dtype, speed in ast.literal_eval(text).items():
        assert speed[-1] >= 0.8*max(speed), f"{dtype}: {speed}"
        assert speed[0] < 0.5*max(speed), "small matrices do not reach the ceiling"
