"""Every command line that chapters, README, exercises and slides print can be typed

It is parsed by the program that it names, and its settings can be planned."""

import importlib.metadata, importlib.util, json, os, re, shlex, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT, door, environment

from nanochat.runs import write_plan
from nanochat.scaling import SMOKE

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "nbs").glob("*.ipynb")),
    *sorted((ROOT / "lectures").glob("*.ipynb")),
    *sorted((ROOT / "exercises").rglob("*.ipynb")),
]
PROGRAMS = r"(?:bash|sh|python3?|torchrun|nbdev_\w+|pip3?|jupyter|pytest|git|cargo|curl|wget|npm|docker)"
NAMED = re.compile(rf"(?:[A-Z_]+=\S+ +)*{PROGRAMS}(?![\w.-])")  # in backticks
# a line of its own
TYPED = re.compile(
    rf"(?:[A-Z_]+=\S+ +)*(?:bash \S+\.sh|python3? (?:-m |\S+\.py)|(?!bash|sh|python){PROGRAMS} -?\S)"
)


def texts(page):
    "All that a reader sees of a page: (text, is it a code block or an output)"
    if page.suffix == ".md":
        for k, part in enumerate(page.read_text(encoding="utf-8").split("```")):
            yield part, k % 2 == 1
        return
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            yield source, True
        else:
            yield from ((part, k % 2 == 1) for k, part in enumerate(source.split("```")))
        for out in cell.get("outputs", []):
            yield "".join(out.get("text", [])), True
            yield "".join(out.get("data", {}).get("text/plain", [])), True


def commands_in(text, block):
    "Command lines: in backticks everywhere, and lines of a block that begin like one"
    found = [m[1] for m in re.finditer(r"`([^`\n]+)`", text) if NAMED.match(m[1])]
    if block:
        found += [line for line in (l.strip().lstrip("!$% ") for l in text.splitlines()) if TYPED.match(line)]
    return [re.sub(r"\s+#.*", "", c).strip() for c in found]


def printed():
    "{command: pages that print it}"
    out = {}
    for page in PAGES:
        if ".ipynb_checkpoints" in page.parts:
            continue
        for text, block in texts(page):
            for command in commands_in(text, block):
                out.setdefault(command, set()).add(page.name)
    return out


def is_name(command):
    "Only a program's name, or its beginning: nothing that could be typed as it stands"
    words = command.split()
    beginnings = ("python -c", "python -m", "torchrun --nproc_per_node=8")
    return len(words) == 1 and not words[0].startswith("nbdev_") or command in beginnings


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    "A reader's own things: a folder of text, a file, a run, and a Python that notes what it should run"
    root = tmp_path_factory.mktemp("commands")
    (root / "texts").mkdir()
    (root / "texts" / "a.txt").write_text("The sea is calm.\n\n" * 400)
    run = root / "base" / "runs" / "moon"
    write_plan(run, SMOKE)
    (root / "bin").mkdir()
    for name, test in (
        ("python", '[ "$1" = -m ] || [ "${1%.py}" != "$1" ]'),
        ("nbdev_test", "true"),
        ("cargo", "true"),
    ):
        (root / "bin" / name).write_text(
            "#!/bin/sh\n"
            f'if {test}; then echo "{name} $@" >> "{root}/asked"; exit 0; fi\n'
            f'exec "{sys.executable}" "$@"\n'
        )
        (root / "bin" / name).chmod(0o755)
    return root


def filled(command, root):
    "The words of a command with placeholders filled in; one that is not known fails"
    meant = {
        "DIR": root / "texts",
        "FILE": root / "texts" / "a.txt",
        "NAME": "moon",
        "R": "moon",
        "RUN": "moon",
        "N": 2,
        "S": "base",
        "{run}": "moon",
        "{rdir.name}": "moon",
        "{run.folder.name}": "moon",
        "{name}": "tinystories",
        "{plan.tier}": "full",
        "DOOR": "runs",
        "door": "moon",
        "plans": "moon",  # `clean door` and `clean plans` are said of runs that chapters 14 and 00 make
    }
    words = [str(meant.get(w, w)) for w in shlex.split(command)]
    open_ = [w for w in words if re.fullmatch(r"[A-Z]{1,8}|.*[{<].*", w)]
    assert not open_, f"{command!r}: no stand-in is known for {open_}; add one to `filled`"
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


def doors(words, root):
    "`bash speedrun.sh …` with the Python that only writes down: what it would run"
    assert words[1] == "speedrun.sh", f"no script {words[1]}"
    args = words[2:]
    trains = not args or args[0].startswith("-")
    asked = root / "asked"
    asked.write_text("")
    write_plan(root / "base" / "runs" / "moon", SMOKE)
    done = door(
        *(["plan"] if trains else []),
        *args,
        base=root / "base",
        cwd=ROOT,
        PYTHON=root / "bin" / "python",
        PATH=f"{root / 'bin'}:{os.environ['PATH']}",
        timeout=60,
    )
    assert done.returncode == 0, f"{' '.join(words)}: status {done.returncode}: {done.stderr[-500:]}"
    return [shlex.split(line) for line in asked.read_text().splitlines()]


DRIVER = """
import argparse, contextlib, io, json, runpy, sys, warnings
warnings.simplefilter("ignore")
from nanochat.runs import TIER_GPUS
from nanochat.scaling import make_plan, plan_tier
class Parsed(BaseException): pass
parse = argparse.ArgumentParser.parse_args
def only(self, args=None, namespace=None): raise Parsed(parse(self, args, namespace))
argparse.ArgumentParser.parse_args = only
def check(kind, target, args, world):
    sys.argv = [target, *args]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if kind == "module": sys.modules.pop(target, None); runpy.run_module(target, run_name="__main__")
            else: runpy.run_path(target, run_name="__main__")
        return "it parses no options"
    except Parsed as e: given = {k: v for k, v in vars(e.args[0]).items() if v is not None}
    except SystemExit as e: return None if not e.code else said.getvalue()[-500:]
    plans = target == "nanochat.runs" and "plan" in args[:2]
    if target not in ("nanochat.scaling", "nanochat.pretrain") and not plans: return None
    ours = ("run", "dry_run", "device", "pdb", "xtra", "as_json", "json", "rehearse")
    ours += ("max_hours", "max_dollars", "slices")
    if given.get("words"): return None          # `fit` reads runs, and makes no plan
    for name in ours: given.pop(name, None)
    on_gpus = {name: given.pop(name) for name in ("recipe", "gpus", "card") if name in given}
    if given.get("tier") in TIER_GPUS: plan_tier(given["tier"], depth=given.get("depth"), **on_gpus)
    else: make_plan(world=world, **given)
def safely(*job):
    try: return check(*job)
    except Exception as e: return f"{type(e).__name__}: {e}"
print(json.dumps([safely(*job) for job in json.load(sys.stdin)]))
"""


def job(words):
    "What a line of Python or torchrun asks for: (module or script, its name, its options, processes)"
    world = 1
    if Path(words[0]).name == "torchrun":
        from torch.distributed.run import parse_args

        given = parse_args(words[1:])
        world, script = int(given.nproc_per_node), given.training_script
        words = [
            "python",
            *(["-m"] if given.module else []),
            script,
            *[w for w in given.training_script_args if w != "--"],
        ]
    if words[1] == "-m":
        return ["module", words[2], words[3:], world]
    assert (ROOT / words[1]).exists(), f"{words[1]} is not there"
    return ["script", words[1], words[2:], world]


def parsed(jobs):
    "What was wrong with each job, or None"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(jobs),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def other(words):
    "Programs that are not ours: they are there, and so is what they are given"
    if words[0].startswith("nbdev_"):
        from fastcore.script import anno_parser

        entry = next(
            (e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == words[0]), None
        )
        assert entry, f"nbdev has no {words[0]}"
        anno_parser(getattr(entry.load(), "__wrapped__", entry.load())).parse_args(words[1:])
    elif words[:2] == ["jupyter", "nbconvert"]:
        assert importlib.util.find_spec("nbconvert") and (ROOT / "lectures" / words[-1]).exists()
        from nbconvert.exporters import get_exporter

        get_exporter(words[words.index("--to") + 1])
    elif words[:3] == ["pip", "install", "-e"]:
        extra = re.search(r"\[(\w+)\]", words[3])
        assert (ROOT / "setup.py").exists() and (
            not extra or f"{extra[1]}" in (ROOT / "setup.py").read_text()
        )
    elif words in (["git", "lfs", "pull"], ["git", "annex", "get"], ["docker", "stop"]):
        pass  # said of somebody else's pointers and of a container; none of these tools is needed here
    else:
        pytest.fail(f"{' '.join(words)}: no kind of command that this test knows how to try; teach it")


def tried(commands, root):
    "{command: what is wrong with it}"
    wrong, jobs = {}, []
    for command in commands:
        try:
            words = filled(command, root)
            program = Path(words[0]).name
            asked = [words]
            if program in ("bash", "sh"):
                asked = doors(words, root)
            for line in asked:
                name = Path(line[0]).name
                if name in ("python", "python3", "torchrun"):
                    if line[1] == "-m" and not line[2].startswith("nanochat."):
                        assert importlib.util.find_spec(line[2]), f"no module {line[2]}"
                    elif line[1].startswith("exercises") or line[1].endswith("grade.py"):
                        assert (ROOT / line[1]).exists()
                    else:
                        jobs.append((command, job(line)))
                elif name != "cargo":
                    other(line)
        except SystemExit as e:
            wrong[command] = f"its options are refused (status {e.code})"
        except (AssertionError, Exception, pytest.fail.Exception) as e:
            wrong[command] = f"{type(e).__name__}: {e}"
    distinct = [json.loads(j) for j in dict.fromkeys(json.dumps(j) for _, j in jobs)]
    answer = {json.dumps(j): a for j, a in zip(distinct, parsed(distinct))} if distinct else {}
    wrong.update({command: answer[json.dumps(j)] for command, j in jobs if answer[json.dumps(j)]})
    return wrong


def test_every_command_that_is_printed_can_be_typed(stage):
    found = printed()
    commands = [c for c in found if not is_name(c)]
    assert len(commands) > 40, "they are found at all"
    assert any(c.startswith("torchrun") for c in commands) and "bash speedrun.sh --tier smoke" in commands
    wrong = tried(commands, stage)
    assert not wrong, "\n".join(f"{' '.join(sorted(found[c]))}: `{c}`: {why}" for c, why in wrong.items())


BAD = [
    "torchrun --nproc_per_node=8 -m nanochat.pretrain --depth 20",
    "torchrun --nproc_per_node=2 -m nanochat.pretrain --iterations 3",
    "torchrun --procs 8 -m nanochat.pretrain",
    "python -m nanochat.pretrain --iterations 3",
    "python -m nanochat.nothing",
    "python -m nanochat.scaling --seq_len 1",
    "python bench/nothing.py",
    "python bench/laptop.py --nothing",
    "bash speedrun.sh fly",
    "bash speedrun.sh --iterations 3",
    "bash speedrun.sh chat --nothing 1",
    "nbdev_fly",
    "npm install",
    "jupyter nbconvert --to slides 99_none.ipynb",
    "python -m nanochat.corpus --shards WHAT",
]


def test_commands_that_die_are_caught(stage):
    wrong = tried(BAD, stage)
    assert set(wrong) == set(BAD), f"not caught: {set(BAD) - set(wrong)}"


def test_commands_are_found_wherever_a_page_may_print_them():
    for text, block, found in (
        ("Type `bash speedrun.sh fly` now", False, ["bash speedrun.sh fly"]),
        ("bash speedrun.sh fly   # up", True, ["bash speedrun.sh fly"]),
        ("$ python -m nanochat.x --a 1\nout", True, ["python -m nanochat.x --a 1"]),
        ("| `torchrun --n 8 -m a` | b |", False, ["torchrun --n 8 -m a"]),
        ("PYTHON=a bash speedrun.sh x", True, ["PYTHON=a bash speedrun.sh x"]),
        ("python        3.34 s     88 MB", True, []),
        ("a python -m b", True, []),
    ):
        assert commands_in(text, block) == found, text
