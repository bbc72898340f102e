"What tests of several chapters share: where things are, how a module or a door is run, one whole smoke run"

import json, os, shutil, signal, socket, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path
import pytest
import warm

# a job begun in the background inherits "ignore Ctrl-C"; tests of Ctrl-C and their children need the default
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# where Python is told to keep no bytecode, each of a thousand commands would compile the library anew
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache" / "bytecode")
# what may not be skipped here: crate, browser, shared, ruff
REQUIRED = {name for name in os.environ.get("NANOCHAT_REQUIRE", "").split(",") if name}
# stage: its command
TRAIN = dict(base=("pretrain",), mid=("sft", "--stage", "mid"), sft=("sft", "--stage", "sft"), rl=("grpo",))
# a run of some seconds, the same on every machine
TINY = ("--tier", "smoke", "--dtype", "float32", "--compile", "off")


def pytest_configure(config):
    config.addinivalue_line("markers", "cuda: needs a GPU; `pytest -m cuda` runs these alone")
    config.addinivalue_line("markers", "slow: more than half a minute")
    config.addinivalue_line("markers", "long: many minutes, run by `bash speedrun.sh test --long` only")


def pytest_runtest_setup(item):
    if item.get_closest_marker("long") and not os.environ.get("NANOCHAT_LONG"):
        pytest.skip("a long evaluation: bash speedrun.sh test --long")
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")


def pytest_terminal_summary(terminalreporter):
    "How long each file took, in the form that `nbdev_test --timing` has for notebooks"
    taken = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                name = Path(report.nodeid.partition("::")[0]).name
                taken[name] = taken.get(name, 0) + report.duration
    for name, seconds in sorted(taken.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{name}: {seconds:.0f} secs")


def missing(name, why):
    "Skip, saying why; fail where NANOCHAT_REQUIRE names it"
    if name in REQUIRED:
        pytest.fail(f"NANOCHAT_REQUIRE asks for {name}: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def shared():
    "Real texts and evaluation sets that lie beside the repository"
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        missing("shared", f"no {data}")
    return data


@pytest.fixture(scope="session")
def crate():
    "The Rust crate"
    try:
        from nanochat import rustbpe
    except ImportError:
        missing("crate", "the Rust crate was not built: install cargo, then `bash speedrun.sh setup`")
    return rustbpe


@pytest.fixture(scope="session")
def browser():
    "Path of the system's chromium"
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing("browser", "no chromium on PATH")


@pytest.fixture
def base(tmp_path, monkeypatch):
    "A base folder of this test's own"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def environment(base=None, **env):
    "The environment of a command: this checkout's library, and a base folder where one is given"
    clean = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NANOCHAT_LOCK")
    }
    return {
        **clean,
        "PYTHONPATH": str(ROOT),
        **({"NANOCHAT_BASE_DIR": str(base)} if base else {}),
        **{k: str(v) for k, v in env.items()},
    }


def run_module(name, *args, base=None, timeout=240, check=True, cwd=ROOT, stdin="", **env):
    "Run `python -m nanochat.NAME ARGS`; fails the test with its stderr where it does not end well"
    words = [str(arg) for arg in args]
    done = warm.run(f"nanochat.{name}", words, cwd, environment(base, **env), stdin, timeout)
    if check and done.returncode:
        pytest.fail(
            f"nanochat.{name} {' '.join(map(str, args))} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return done


def torchrun(processes, *args, base=None, timeout=300, **env):
    "`torchrun --nproc_per_node=PROCESSES ARGS` on the CPU; -- keeps torchrun from taking --run as --run-path"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    n = 2 if args[0] == "-m" else 1
    command = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    return warmly([*command, *args[:n], "--", *args[n:]], base, timeout, env)


def launched(processes, *args, base=None, timeout=300, **env):
    "The same by chapter 11's `launch`, which starts sooner"
    return warmly([warm.LAUNCH, processes, *args], base, timeout, env)


def warmly(command, base, timeout, env):
    "A Python command line by a warm Python, on the CPU"
    around = environment(base, OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu", **env)
    return subprocess.run(
        [warm.stand_in(around), *map(str, command)],
        cwd=ROOT,
        env=around,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def refused(done, *words):
    "The command ended with a reader's line that holds `words` (several processes may write into one line)"
    line = next((line for line in done.stderr.splitlines() if "error: " in line), "")
    assert done.returncode and all(str(word) in line for word in words), done.stderr[-3000:]


def door_environment(base=None, **env):
    "A door runs without set-up, on the interpreter of the tests"
    return environment(base, **{"NANOCHAT_SKIP_SETUP": "1", "PYTHON": sys.executable, **env})


def warm_environment(base=None, **env):
    "The same, on a Python that has torch loaded"
    around = door_environment(base, **env)
    return around | {"PYTHON": warm.stand_in(around)}


def door(*args, base=None, timeout=300, cwd=ROOT, stdin="", script=ROOT / "speedrun.sh", **env):
    "Run `bash speedrun.sh ARGS`"
    own_python = {"PYTHON", "PYTHONPATH"} & set(env)
    return subprocess.run(
        ["bash", str(script), *map(str, args)],
        cwd=cwd,
        env=door_environment(base, **env) if own_python else warm_environment(base, **env),
        capture_output=True,
        text=True,
        timeout=timeout,
        input=stdin,
    )


def one_line(done, *words, status=None):
    "The command failed with one clear line on stderr that holds `words`, and no traceback"
    assert done.returncode != 0 if status is None else done.returncode == status, (
        f"status {done.returncode}\n{done.stderr}"
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = [l for l in done.stderr.splitlines() if l.startswith("error: ") or ": error: " in l]
    assert len(lines) == 1, done.stderr
    assert lines[0] == done.stderr.splitlines()[-1], done.stderr
    for word in words:
        assert str(word) in lines[0], f"{word!r} is not in: {lines[0]}"


def processes(**variables):
    "Numbers of the living processes that were started with these variables"
    wanted, found = {f"{name}={value}".encode() for name, value in variables.items()}, []
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/environ", "rb") as file:
                    if wanted <= set(file.read().split(b"\0")):
                        found.append(int(path))
            except OSError:
                pass
    return found


def leftovers(folder):
    "Files and folders that a write which did not end would leave behind"
    return (
        [p for p in Path(folder).rglob(".*") if p.name not in (".lock", ".workers", ".proven")]
        if Path(folder).exists()
        else []
    )


def flip(file, at=-100):
    "Change one bit of a file"
    data = bytearray(Path(file).read_bytes())
    data[at] ^= 1
    Path(file).write_bytes(data)


def lines_of(rdir, stage):
    "The lines of log.jsonl that belong to a stage; a last line half written by a running job is passed over"
    out = []
    file = Path(rdir) / "log.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            d = json.loads(line)
        except ValueError:
            continue
        if d["stage"] == stage:
            out.append(d)
    return out


@dataclass
class Run:
    "A run on disk"

    base: Path
    name: str

    @property
    def dir(self):
        return self.base / "runs" / self.name

    @property
    def settings(self):
        return json.loads((self.dir / "settings.json").read_text())

    def change(self, **parts):
        "Another plan, on purpose: the seal goes; a stage's part is changed key by key"
        settings = {k: v for k, v in self.settings.items() if k != "sha256"}
        for name, part in parts.items():
            one_stage = isinstance(part, dict) and isinstance(settings[name], dict)
            settings[name] = {**settings[name], **part} if one_stage else part
        (self.dir / "settings.json").write_text(json.dumps(settings))

    def last(self, stage):
        return max((self.dir / stage).glob("step_*"), key=lambda p: int(p.name[5:]))

    def weights(self, stage):
        return (self.last(stage) / "model.safetensors").read_bytes()

    def train(self, stage, **kw):
        return run_module(*TRAIN[stage], "--run", self.name, base=self.base, **kw)

    def before(self, stage, base):
        "A copy as it was just before `stage` began"
        copy = self.copy(base)
        later = list(TRAIN)[list(TRAIN).index(stage) :]
        for st in later:
            shutil.rmtree(copy.dir / st)
            for f in (copy.dir / "results").glob(f"*{st}.json"):
                f.unlink()
        log = copy.dir / "log.jsonl"
        log.write_text(
            "".join(l for l in log.read_text().splitlines(True) if json.loads(l)["stage"] not in later)
        )
        return copy

    def copy(self, base):
        shutil.copytree(self.dir, Path(base) / "runs" / self.name)
        return Run(Path(base), self.name)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    "One smoke run from end to end through the main door; tests copy it, none changes it"
    base = tmp_path_factory.mktemp("smoke")
    t0 = time.time()
    done = door("--tier", "smoke", "--seed", "0", base=base, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(base, "smoke-world-d2-s0")
    run.done, run.wall = done, time.time() - t0
    return run
