"The doors of speedrun.sh: what each answers, what it refuses, and when it sets up again"

import fcntl, json, os, re, shutil, signal, subprocess, sys, time
from dataclasses import replace
from types import SimpleNamespace
import pytest
import torch
from conftest import ROOT, door, door_environment, environment, one_line, processes, run_module
from nanochat import runs, scaling
from nanochat.runs import newest_run, write_plan
from nanochat.scaling import SMOKE, busy_cores, expected_minutes, make_plan


def run_folder(base, name, when=None, **settings):
    "A folder that looks like a run"
    d = base / "runs" / name
    (d / "results").mkdir(parents=True)
    write_plan(d, replace(SMOKE, **settings))
    if when:
        os.utime(d, (when, when))
    return d


# --- what a door says ---


def test_options_are_handed_on_as_they_were_given():
    "Zero is a value, and what is switched on has none"
    from nanochat.runs import as_options, read_options

    assert as_options(read_options("serve", ["--port", "0"])) == ["--port", "0"]
    given = ["--tier", "full", "--seed", "0", "--rehearse"]
    assert as_options(read_options("train", given)) == ["--tier", "full", "--seed", "0", "--rehearse"]


def test_launching_is_no_door(base):
    one_line(door("launch", base=base), "unknown door 'launch'", status=2)
    assert not base.exists()


def test_help_names_every_door():
    for flag in ("help", "--help", "-h"):
        done = door(flag)
        assert done.returncode == 0
        for word in (
            "setup",
            "test",
            "lab",
            "chat",
            "serve",
            "report",
            "grade",
            "plan",
            "preflight",
            "runs",
            "clean",
            "--max_hours",
            "--max_dollars",
            "--tier",
            "--corpus",
            "--depth",
            "--run",
            "--seed",
        ):
            assert word in done.stdout, word


@pytest.mark.parametrize(
    "args, word",
    [
        (("dance",), "dance"),
        (("walk",), "walk"),
        (("check",), "check"),
        (("stamp",), "stamp"),
        (("free", "/tmp"), "free"),
        (("done", "a", "base"), "done"),
        (("late",), "late"),
        (("--speed", "9"), "--speed"),
        (("chat", "--port", "1"), "--port"),
        (("--tier",), "--tier"),
        (("--seed", "x"), "--seed"),
        (("clean",), "clean"),
        (("runs", "all"), "all"),
        (("--seed=",), "--seed"),
        (("--ratio_cap", "0.5"), "--ratio_cap"),
        (("plan", "--depht", "4"), "--depht"),
    ],
)
def test_misuse_is_one_line_and_status_2(base, args, word):
    done = door(*args)
    one_line(done, word, status=2)
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert not base.exists(), "nothing may be written"


def test_doors_answer_without_a_run(base):
    for args in (("chat",), ("serve",), ("report",)):
        one_line(door(*args), "no run yet", status=1)
    done = door("runs")
    assert done.returncode == 0 and "no run yet" in done.stdout


def test_plan_prints_and_writes_nothing(base):
    done = door("plan", "--tier", "smoke", "--seed", "3")
    assert done.returncode == 0 and "2 layers" in done.stdout, done.stdout + done.stderr
    assert not base.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
@pytest.mark.parametrize("args", [("--tier", "gpu"), ("--tier", "full", "--corpus", "fineweb-edu")])
def test_a_run_for_gpus_is_refused_without_them(base, args):
    done = door(*args)
    one_line(done, f"tier '{args[1]}'", "has no GPUs", "--rehearse", f"plan --tier {args[1]}", status=1)
    assert not list(base.glob("runs/*")), "a job that can't run leaves no run behind"


def test_what_runs_knows_by_heart_is_what_others_say():
    "The steps of the road, the corpora of the hub and the depth of each tier stand where torch is not needed"
    import re
    from nanochat.corpus import HUB
    from nanochat.runs import CARD_MEMORY, CARD_NAMES, HUB_NAMES, RECIPE_NAMES, ROAD, TIER_DEPTH, TIER_GPUS
    from nanochat.scaling import CARDS, RECIPES, TIERS, plan_tier

    road = re.search(r"^road\(\) \{\n(.*?)^\}", (ROOT / "speedrun.sh").read_text(), re.M | re.S)[1]
    assert tuple(re.findall(r"^  step (\w+)", road, re.M)) == ROAD
    assert set(HUB_NAMES) == set(HUB)
    assert {tier: t.depth for tier, t in TIERS.items()} == {
        t: d for t, d in TIER_DEPTH.items() if t in TIERS
    } and set(TIER_DEPTH) == {*TIERS, *TIER_GPUS}
    for tier in TIER_GPUS:
        assert plan_tier(tier).depth == TIER_DEPTH[tier]
    assert (RECIPE_NAMES, CARD_NAMES) == (tuple(RECIPES), tuple(CARDS))
    assert CARD_MEMORY == {name: card.memory for name, card in CARDS.items()}


# --- the hardware decides what was left open ---

H100, ADA, T4 = "NVIDIA H100 80GB HBM3, 81559", "NVIDIA GeForce RTX 4090, 24564", "Tesla T4, 15360"


@pytest.fixture
def machine(tmp_path):
    "Environment variables that put a program named nvidia-smi first on the PATH"

    def made(*cards, instead=""):
        (tmp_path / "bin").mkdir(exist_ok=True)
        program = tmp_path / "bin" / "nvidia-smi"
        lines = [f"echo 'GPU-{number}aa, {card}'" for number, card in enumerate(cards)]
        program.write_text("\n".join(["#!/bin/sh", *(lines if not instead else [instead])]) + "\n")
        program.chmod(0o755)
        return dict(PATH=f"{program.parent}:{os.environ['PATH']}")

    return made


@pytest.fixture
def decided(monkeypatch, capsys):
    "What a door becomes where torch isn't loaded, and what it says"
    for name in ("CUDA_VISIBLE_DEVICES", "NANOCHAT_DEVICE"):
        monkeypatch.delenv(name, raising=False)

    def of(*words, **around):
        without_torch = SimpleNamespace(modules={}, executable="python", stderr=sys.stderr)
        became = []
        with monkeypatch.context() as here:
            here.setattr(runs, "sys", without_torch)
            here.setattr(runs, "become", lambda command, **more: became.append(command[2:]))
            for name, value in around.items():
                here.setenv(name, value)
            runs.open_door(words[0], list(words[1:]))
        return became[0], capsys.readouterr().err

    return of


LEFT_OPEN = [
    ((), {}, "", "", "no NVIDIA GPU found: tier laptop"),
    ((ADA,), {}, "", "--tier gpu --card 4090", "1 x NVIDIA GeForce RTX 4090 with 24 GiB: tier gpu, planned"),
    ((H100,) * 8, {}, "", "--tier full --card h100", "8 x NVIDIA H100 80GB HBM3 with 80 GiB: tier full"),
    ((H100,) * 4, {}, "", "--tier gpu --card h100", "planned for 1 x h100"),
    ((ADA,) * 8, {}, "", "--tier gpu --card 4090", "tier gpu"),
    (("Quadro P400, 2048",), {}, "", "", "too small for a plan of its own: tier laptop"),
    (("A slice, [N/A]",), {}, "", "", "no NVIDIA GPU found"),
    ((H100, T4), dict(CUDA_VISIBLE_DEVICES="1"), "", "--tier gpu --card t4", "Tesla T4"),
    ((H100, T4), dict(CUDA_VISIBLE_DEVICES="GPU-1"), "", "--tier gpu --card t4", "Tesla T4"),
    ((H100, T4), dict(CUDA_VISIBLE_DEVICES="1,7,0"), "", "--tier gpu --card t4", "1 x Tesla T4"),
    ((H100,), dict(CUDA_VISIBLE_DEVICES=""), "", "", "no NVIDIA GPU found"),
    ((H100,), dict(NANOCHAT_DEVICE="cpu"), "", "", "NANOCHAT_DEVICE is cpu: tier laptop"),
    ((ADA,), {}, "--tier gpu --seed 3", "--tier gpu --seed 3 --card 4090", "planned for 1 x 4090"),
    ((ADA,), {}, "--tier gpu --card t4", "--tier gpu --card t4", ""),
    ((ADA,), {}, "--card t4", "--tier gpu --card t4", "planned for 1 x t4"),
    ((ADA,), {}, "--tier full", "--tier full", ""),
    ((ADA,), {}, "--model baseline", "--model baseline", "tier laptop: none for GPUs takes --model"),
    ((ADA,), {}, "--corpus tinystories", "--corpus tinystories", "tier laptop"),
    ((ADA,), {}, "--tier smoke", "--tier smoke", ""),
    ((ADA,), {}, "--tier full --rehearse", "--tier full --rehearse", ""),
]


@pytest.mark.parametrize("cards, more, given, options, said", LEFT_OPEN)
def test_what_is_left_open_is_decided_by_the_gpus(decided, machine, base, cards, more, given, options, said):
    words, lines = decided("plan", *given.split(), **machine(*cards), **more)
    assert sorted(words) == sorted(f"nanochat.scaling --dry_run {options}".split())
    assert said in lines and len(lines.splitlines()) == bool(said)
    assert not base.exists()


SILENT = (("exit 9", ""), ("echo No devices were found", ""), ("exec sleep 20", "no answer within 0.3 s"))


@pytest.mark.parametrize("instead, said", SILENT)
def test_a_driver_that_fails_or_is_silent_counts_as_none(decided, machine, monkeypatch, instead, said):
    monkeypatch.setattr(runs, "SMI_SECONDS", 0.3)
    words, lines = decided("plan", "--seed", "1", **machine(instead=instead))
    assert words == ["nanochat.scaling", "--dry_run", "--seed", "1"]
    assert said in lines and "no NVIDIA GPU found: tier laptop" in lines


def test_a_run_that_is_there_is_not_decided_again(decided, machine, base):
    "Its card is no part of its name, so that any machine can go on with it"
    run_folder(base, "mine")
    words, lines = decided("preflight", "--run", "mine", **machine(ADA))
    assert "--tier" not in words and not lines
    words, _ = decided("preflight", **machine(ADA))
    assert "gpu-2026-s0" in words and "4090" in words


def test_a_plan_is_made_for_the_gpu_that_was_found(machine, base):
    "From outside: nvidia-smi is asked by a Python that has no torch"
    done = door("plan", "--json", base=base, **machine("NVIDIA RTX A6000, 49140"))
    plan = json.loads(done.stdout)
    assert (plan["tier"], plan["card"], plan["gpus"]) == ("gpu", "a100-40", 1) and plan["fits"]
    assert "RTX A6000 with 48 GiB: tier gpu, planned for 1 x a100-40" in done.stderr


def test_where_torch_is_loaded_it_is_asked(base, monkeypatch):
    "A module that is started by itself picks the card, too, and the name of its run stays without one"
    card = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=24564 << 20)
    monkeypatch.delenv("NANOCHAT_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    run = scaling.open_run(device="cpu", tier="gpu", depth=4)
    assert (run.plan.card, run.folder.name) == ("4090", "gpu-2026-d4-s0")
    assert scaling.with_card(dict(tier="gpu", card="t4"))["card"] == "t4"
    assert "card" not in scaling.with_card(dict(tier="full"))


PLAN = (
    "tier, recipe, depth, gpus, vocab_size, params, params_by_group, tokens, batch_tokens, steps, flops, "
    "hours, dollars, gib_per_gpu, device_rows, shards, disk_gb, stages"
)


def test_a_plan_for_gpus_as_one_json_object(base):
    words = ("--tier", "full", "--recipe", "2025", "--depth", "26", "--gpus", "4")
    done = door("plan", *words, "--json", base=base)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert set(PLAN.split(", ")) <= set(plan)
    assert (plan["tier"], plan["recipe"], plan["depth"], plan["gpus"]) == ("full", "2025", 26, 4)
    assert plan["params"] == sum(plan["params_by_group"].values())
    said = run_module("scaling", "--dry_run", *words, base=base).stdout
    assert f"{plan['steps']:,} steps" in said
    assert f"in all {plan['hours']:.1f}, ${plan['dollars']:,.0f}" in said
    assert "planned, not measured" in said
    laptop = run_module("scaling", "--dry_run", "--as_json", base=base)
    assert json.loads(laptop.stdout)["base"]["steps"] == make_plan("laptop").base.steps


@pytest.mark.parametrize(
    "words,said",
    [
        (("plan", "--tier", "full", "--recipe", "2024"), ("recipe", "2024", "2025, 2026")),
        (("plan", "--tier", "full", "--gpus", "3"), ("3 GPUs", "share equally")),
        (("plan", "--tier", "full", "--gpus", "0"), ("gpus", "from 1 on")),
        (("plan", "--tier", "full", "--card", "h200"), ("card", "h200")),
        (("plan", "--tier", "gpu", "--dtype", "float16"), ("--dtype", "recipe")),
        (("plan", "--tier", "full", "--corpus", "tinystories"), ("tinystories", "--corpus")),
        (("plan", "--tier", "full", "--model", "baseline"), ("full", "--model gpt")),
        (("plan", "--recipe", "2025"), ("--recipe", "--tier full or gpu")),
        (("--gpus", "8"), ("--gpus", "--tier full or gpu")),
        (("--tier", "smoke", "--card", "t4"), ("--card", "--tier full or gpu")),
    ],
)
def test_what_a_plan_for_gpus_cannot_follow_is_refused(base, words, said):
    one_line(door(*words, base=base), *said)
    assert not list(base.glob("runs/*"))


def test_default_name_is_that_of_the_library(base, tmp_path):
    from nanochat.scaling import make_plan, run_name

    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("The old miller walked to the market.\n" * 500)
    for tier, corpus, depth, seed in (
        ("smoke", "world", None, 0),
        ("laptop", "world", None, 2),
        ("smoke", "world", 3, 1),
        ("smoke", str(texts), None, 0),
    ):
        plan = make_plan(tier=tier, corpus=corpus, depth=depth, seed=seed)
        want = run_name(tier, corpus, plan.depth, seed)
        run_folder(base, want)  # a run of that name with another vocabulary: the refusal shows the name
        args = ["--tier", tier, "--corpus", corpus, "--seed", seed, "--vocab_size", "777"] + (
            ["--depth", depth] if depth else []
        )
        one_line(door(*args), repr(want), status=1)


# --- talking ---


def test_piped_chat_answers_on_stdout_only(smoke):
    done = door("chat", base=smoke.base, stdin="Who are you?\nWhat is 17 * 23?\n", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and len(done.stdout.splitlines()) >= 2
    for word in ("set-up", "run smoke", "Ctrl-D", "warning"):
        assert word not in done.stdout  # (a model may well say "parameters")
    stage = door(
        "chat", "--run", smoke.name, "--stage", "sft", base=smoke.base, stdin="Who are you?\n", timeout=120
    )
    assert stage.returncode == 0 and stage.stdout.strip()
    one_line(door("chat", "--stage", "dream", base=smoke.base, timeout=120), "dream")


def test_report_door_makes_it_again(smoke, tmp_path):
    run = smoke.copy(tmp_path)
    before = (run.dir / "report.md").read_text()
    (run.dir / "report.md").unlink()
    assert door("report", base=run.base).returncode == 0
    assert (run.dir / "report.md").read_text() == before


# --- runs, clean, the newest ---


def test_runs_lists_the_newest_first(base):
    run_folder(base, "older", when=1_000_000)
    new = run_folder(base, "newer", when=2_000_000)
    (new / "log.jsonl").write_text('{"stage": "base", "step": 7, "loss": 1.0}\n')
    lines = door("runs").stdout.splitlines()
    assert (
        [l.split()[0] for l in lines] == ["newer", "older"] and "base 7/60" in lines[0] and "MB" in lines[0]
    )
    from nanochat.runs import list_runs

    assert list_runs() == ["newer", "older"], "the library and the script agree"


def test_folders_are_relative_to_the_caller(tmp_path):
    run_folder(tmp_path / "kept", "mine")
    assert door("runs", cwd=tmp_path, NANOCHAT_BASE_DIR="kept").stdout.startswith("mine ")
    (tmp_path / "texts with blanks").mkdir()
    one_line(
        door("--tier", "smoke", "--corpus", "texts with blanks", cwd=tmp_path, base=tmp_path / "base"),
        "texts with blanks",
        ".txt",
        status=1,
    )


def test_clean_removes_one_run(base):
    run_folder(base, "a")
    run_folder(base, "ab")
    assert door("clean", "a").returncode == 0
    assert [p.name for p in (base / "runs").iterdir()] == ["ab"]


@pytest.mark.parametrize("name", ["../ab", "..", ".", "a/b", "", "*", "-rf", "nosuch"])
def test_clean_refuses_what_is_no_run(base, name):
    run_folder(base, "ab")
    (base / "keep").write_text("x")
    done = door("clean", name)
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done.stderr
    assert (base / "keep").exists() and (base / "runs" / "ab" / "settings.json").exists()


def test_clean_and_start_refuse_a_run_in_use(base):
    d = run_folder(base, "busy")
    with open(d / ".lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write("4711")
        f.flush()
        one_line(door("clean", "busy"), "busy", "4711")
        one_line(door("--run", "busy"), "busy", "4711")
        assert "in use by process 4711" in door("runs").stdout
    assert (d / "settings.json").exists()
    assert door("clean", "busy").returncode == 0 and not d.exists()


# --- set-up: with a stand-in for Python that writes down what is asked of pip ---

FAKE = """#!/bin/sh
case "$*" in
  "-m venv "*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
  "-m pip "*) echo "$*" >> "$PIP_LOG"; [ -z "$PIP_FAILS" ] ;;
  *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    "A checkout without an environment, and a door into it that sets up with the stand-in"
    root = tmp_path / "clone"
    root.mkdir()
    for f in ("speedrun.sh", "settings.ini", "setup.py"):
        shutil.copy(ROOT / f, root)
    shutil.copytree(ROOT / "rustbpe", root / "rustbpe", ignore=shutil.ignore_patterns("target"))
    (root / "nanochat").mkdir()
    for f in ("__init__.py", "runs.py"):
        shutil.copy(ROOT / "nanochat" / f, root / "nanochat")
    fake = tmp_path / "python"
    fake.write_text(FAKE.replace("{python}", sys.executable))
    fake.chmod(0o755)
    log = tmp_path / "pip.log"
    log.touch()

    def go(*args, **env):
        done = subprocess.run(
            ["bash", str(root / "speedrun.sh"), *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **environment(tmp_path / "base"),
                "PYTHONPATH": "",
                "NANOCHAT_SKIP_SETUP": "",
                "PYTHON": str(fake),
                "PIP_LOG": str(log),
                "PIP_FAILS": "",
                **env,
            },
        )
        done.pips = len(log.read_text().splitlines())
        return done

    go.root, go.log = root, log
    return go


def test_set_up_once_and_again_only_for_a_reason(clone):
    done = clone("setup")
    assert done.returncode == 0 and done.pips == 1, done.stderr
    assert "install -e .[dev]" in clone.log.read_text()
    assert (clone.root / ".venv/.nanochat-stamp").exists() and "Python 3." in done.stderr
    assert "tokenizer trainer" in done.stderr
    assert clone("chat").pips == 1, "the stamp matches: no second set-up"
    (clone.root / "rustbpe/target").mkdir()
    (clone.root / "rustbpe/target/x").write_text("built")
    assert clone("chat").pips == 1, "what cargo builds is no reason"
    for n, file in enumerate(("settings.ini", "setup.py", "rustbpe/Cargo.toml"), 2):
        with open(clone.root / file, "a") as f:
            f.write("\n# changed\n")
        assert clone("chat").pips == n, f"{file} changed: set up again"


def test_set_up_that_failed_leaves_no_stamp(clone):
    done = clone("setup", PIP_FAILS="yes")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: pip could not install"), (
        done.stderr
    )
    assert not (clone.root / ".venv/.nanochat-stamp").exists()
    assert clone("setup").pips == 2, "the next start tries again"


def test_set_up_prints_nothing_on_stdout(clone):
    done = clone("chat")
    assert done.pips == 1 and done.stdout == "", "stdout belongs to the talk"


def test_broken_environment_is_made_again(clone):
    clone("setup")
    (clone.root / ".venv/bin/python").unlink()
    assert clone("setup").pips == 2


def test_python_that_is_too_old_is_refused(clone, tmp_path):
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$*" in --version) echo "Python 3.9.1";; *) exit 1;; esac\n')
    old.chmod(0o755)
    one_line(clone("setup", PYTHON=str(old)), "3.9.1", "3.11", status=1)
    one_line(clone("setup", PYTHON="/no/such/python"), "/no/such/python", status=1)


def test_works_from_any_folder_and_in_plain_shells(base, tmp_path):
    done = door("plan", "--tier", "smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "speedrun.sh").read_text()
    for word in ("declare -A", "mapfile", "readarray", ",,}", "^^}", "&>>", "${!"):
        assert word not in text, f"{word}: macOS's bash 3.2 has not got it"


# --- what a fresh user met ---


@pytest.mark.parametrize(
    "args, words",
    [
        (("--tier", "smke"), ("--tier", "smke", "smoke, laptop, gpu, full")),
        (("--dtype", "float64"), ("--dtype", "float64", "auto, float32, bfloat16, float16")),
        (("--depth", "0"), ("--depth", "from 1 on")),
        (("--vocab_size", "0"), ("--vocab_size", "from 1 on")),
    ],
)
def test_a_mistake_is_named_before_set_up(base, args, words):
    "By the module that needs no torch: the door asks it before it installs anything"
    command = [sys.executable, "-m", "nanochat.runs", "check", "train", *args]
    done = subprocess.run(command, cwd=ROOT, env=environment(base), capture_output=True, text=True)
    one_line(done, *words, status=2)
    one_line(door(*args, base=base), *words, status=2)
    assert not (base / "runs").exists()


def test_a_file_is_no_corpus(base):
    done = door("--tier", "smoke", "--corpus", ROOT / "README.md", base=base)
    one_line(done, "README.md", "a file, and it must be a folder")


def test_chat_passes_over_a_run_that_has_trained_nothing(base, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    trained, planned = run_folder(base, "trained", when=1000), run_folder(base, "planned", when=2000)
    assert newest_run() == "planned", "where nothing is trained, the newest"
    (trained / "base" / "step_1").mkdir(parents=True)
    (trained / "base" / "step_1" / "meta.json").write_text("{}")
    os.utime(trained, (1000, 1000))
    os.utime(planned, (2000, 2000))
    assert newest_run() == "trained"


def test_plan_of_a_run_is_that_runs_plan(base):
    run_folder(base, "mine")
    done = door("plan", "--run", "mine", base=base)
    assert done.returncode == 0 and done.stdout.startswith("tier smoke"), done.stderr
    one_line(door("plan", "--run", "mine", "--seed", "5", base=base), "seed", "5")


def test_minutes_are_foretold_for_a_job_of_that_length():
    kept = expected_minutes(make_plan("laptop"), ROOT / "bench" / "results")
    assert "a recorded run took" in kept
    for other in (dict(num_iterations=100), dict(seq_len=1024), dict(depth=8), dict(corpus="climbmix")):
        said = expected_minutes(make_plan("laptop", **other), ROOT / "bench" / "results")
        assert "no recorded run of this kind" in said, other


def test_minutes_are_foretold_in_the_dtype_that_will_be_taken(monkeypatch):
    "A machine without bfloat16 imitates it a hundred times too slowly, and trains in float32"
    monkeypatch.setattr(scaling, "pick_dtype", lambda device, name: torch.float32)
    speed = {torch.float32: 5e11, torch.bfloat16: 1e9}
    monkeypatch.setattr(scaling, "matmul_flops", lambda dtype, device: speed[dtype])
    said = scaling.expected_minutes(make_plan("laptop"), ROOT / "bench" / "results")
    assert "here float32 is taken, which runs at 500)" in said
    assert 1 < int(re.search(r"about (\d+) minutes", said)[1]) < 60


def test_a_busy_machine_is_told_of(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = os.cpu_count()
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0 * cores, 0, 0))
    assert "OMP_NUM_THREADS=1" in busy_cores()
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0, 0))
    assert busy_cores() == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0 * cores, 0, 0))
    assert busy_cores() == ""


def loads_torch(pid):
    "Has a process begun to load torch?"
    try:
        with open(f"/proc/{pid}/maps") as file:
            return "libtorch" in file.read()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_early_in_a_step_has_its_word(base):
    "Torch is still being loaded: the step itself can't say it"
    command = ["bash", str(ROOT / "speedrun.sh"), "--tier", "smoke"]
    for word in ("== settings ==", "== tokenizer =="):
        p = subprocess.Popen(
            command,
            cwd=ROOT,
            env=door_environment(base),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = []
        for line in p.stderr:
            said.append(line)
            if word in line:
                break
        until = time.monotonic() + 60
        while not any(map(loads_torch, processes(NANOCHAT_BASE_DIR=base))) and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(p.pid, signal.SIGINT)
        said += p.stderr.readlines()
        assert p.wait(timeout=60) == 130 and "Traceback" not in "".join(said), said
        assert sum("the same command goes on from there" in line for line in said) == 1, said


# a Python whose every step waits for SIGTERM, and then does what HEARS says
WAITS = """#!/bin/sh
case "$*" in
  "-m nanochat.runs done "*) exit 10 ;;
  "-m nanochat.runs "*) exit 0 ;;
  "-m nanochat."*) exec "{python}" -c '{waits}' ;;
  *) exec "{python}" "$@" ;;
esac
"""
WAIT = """
import os, signal, sys, time
if os.environ["HEARS"]: signal.signal(signal.SIGTERM, lambda *signal: sys.exit(int(os.environ["HEARS"])))
print("ready", signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("hears, status", [("75", 75), ("", 75), ("0", 75), ("1", 1)])
def test_a_shell_that_is_told_to_stop_tells_its_step(tmp_path, hears, status):
    "As the first process of a container, or Slurm's batch step: nobody else hears of it"
    python = tmp_path / "python"
    python.write_text(WAITS.format(python=sys.executable, waits=WAIT))
    python.chmod(0o755)
    walk = dict(FINISHED=" ", FRESH="", READ_ONLY="", NEXT="", HEARS=hears, PYTHON=python)
    p = subprocess.Popen(
        ["bash", str(ROOT / "speedrun.sh"), "walk", "one", str(tmp_path)],
        env=door_environment(tmp_path, **walk),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert p.stdout.readline() == "ready True\n", "Ctrl-C would still be heard"
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=20)  # the pipes are closed: no process is left
    assert (p.returncode, out) == (status, ""), err
    assert ("the same command goes on from there" in err) == (status == 75)
