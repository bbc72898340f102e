"""The order of the house

The library is what the notebooks export, chapters look only backwards, notebooks keep their outputs and no
machine's traces, and code can be read aloud."""

import ast, importlib.util, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT, environment, missing

NBS = sorted((ROOT / "nbs").glob("[0-9A][0-9]_*.ipynb"))
BOOKS = [
    *NBS,
    *sorted((ROOT / "nbs").glob("index.ipynb")),
    *sorted((ROOT / "exercises").rglob("*.ipynb")),
    *sorted((ROOT / "lectures").glob("*.ipynb")),
]
BOOKS = [p for p in BOOKS if ".ipynb_checkpoints" not in p.parts]


def names(paths):
    return [str(p.relative_to(ROOT)) for p in paths]


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def code_cells(path):
    return [c for c in cells(path) if c["cell_type"] == "code"]


def module_of(path):
    "The module that a chapter exports, or None"
    found = re.search(
        r"^#\|\s*default_exp\s+(\S+)",
        "\n".join(map(source, code_cells(path))),
        re.M,
    )
    return found and found[1]


def place(path):
    "Where a notebook stands in the order of the house: appendices before all chapters"
    return (path.name[0] != "A", int(path.name[:2].lstrip("A")))


CHAPTER = {module_of(p): place(p) for p in NBS if module_of(p)}  # module: place of its chapter


def imported(code):
    "Modules of the library that some code imports"
    lines = [re.sub(r"^(\s*)[%!].*", r"\1pass", l) for l in code.splitlines()]  # `!ls` is no Python
    out = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ImportFrom):
            if node.module == "nanochat" or node.level and not node.module:
                out |= {a.name for a in node.names}
            elif node.level:
                out.add(node.module.split(".")[0])
            elif (node.module or "").startswith("nanochat."):
                out.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            out |= {a.name.split(".")[1] for a in node.names if a.name.startswith("nanochat.")}
    return out


def test_all_chapters_are_there():
    planned = {f"{n:02}" for n in range(25)} | {"A1", "A2", "A3"}
    assert planned <= {p.name[:2] for p in NBS}
    assert (ROOT / "nbs" / "index.ipynb").exists()


def test_library_is_what_the_notebooks_export(tmp_path):
    for part in ("settings.ini", "setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / part, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (tmp_path / "nanochat").mkdir()
    shutil.copy(ROOT / "nanochat" / "__init__.py", tmp_path / "nanochat")
    # what travels with exported models comes from no notebook, but nbdev lists it
    shutil.copytree(ROOT / "nanochat" / "hf", tmp_path / "nanochat" / "hf")
    subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    fresh = {p.name: p.read_text() for p in (tmp_path / "nanochat").glob("*.py")}
    kept = {p.name: p.read_text() for p in (ROOT / "nanochat").glob("*.py")}
    assert set(fresh) == set(kept), f"only in the library or only exported: {set(fresh) ^ set(kept)}"
    stale = [name for name in fresh if fresh[name] != kept[name]]
    assert not stale, f"{', '.join(stale)}: not what the notebooks export; run nbdev_export"


@pytest.mark.parametrize("path", NBS, ids=names(NBS))
def test_imports_only_from_smaller_chapters(path):
    number, own = place(path), module_of(path)
    python = [source(c) for c in code_cells(path) if not source(c).startswith("%%")]
    code = {"the notebook": "\n\n".join(python)}
    if own:
        code[f"nanochat/{own}.py"] = (ROOT / "nanochat" / f"{own}.py").read_text()
    for where, text in code.items():
        late = {m for m in imported(text) if m in CHAPTER and m != own and CHAPTER[m] >= number}
        assert not late, f"{where} of {path.name[:2]} imports {late}: later chapters"
        if own and where != "the notebook":
            stars = re.search(r"^\s*from nanochat\.\w+ import \*", text, re.M)
            assert not stars, f"{where}: stars hide where a name comes from"


def test_importing_a_module_does_nothing(tmp_path):
    "No download, no file, no word: importing the whole library in an empty home"
    code = "import importlib\nfor m in %r: importlib.import_module('nanochat.'+m)" % sorted(CHAPTER)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path / "base", HOME=tmp_path / "home"),
    )
    assert done.returncode == 0 and done.stdout == "" and done.stderr == "", done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


HEAVY = {"datasets", "fastapi", "uvicorn", "matplotlib", "ipywidgets", "transformers", "pyarrow", "IPython"}


@pytest.mark.parametrize("module", sorted(CHAPTER))
def test_heavy_packages_only_where_they_are_used(module):
    top = ast.parse((ROOT / "nanochat" / f"{module}.py").read_text()).body
    found = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
    found |= {(n.module or "").split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
    assert not found & HEAVY, f"nanochat/{module}.py imports {found & HEAVY} at its top"


@pytest.mark.parametrize("path", BOOKS, ids=names(BOOKS))
def test_notebook_is_clean(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"], "widget state: remove metadata.widgets"
    assert all(c.get("id") for c in nb["cells"]), "cells without ids: run nbdev_clean once"
    assert len({c["id"] for c in nb["cells"]}) == len(nb["cells"]), "two cells of one id"
    for c in nb["cells"]:
        for out in c.get("outputs", []):
            if path.parts[-2] != "exercises":
                assert out["output_type"] != "error", f"an error is saved in cell {c['id']}"
            text = (
                "".join(out.get("text", []))
                if "text" in out
                else "".join("".join(v) for k, v in out.get("data", {}).items() if k.startswith("text/"))
            )
            assert "text" not in out or text.count("\n") <= 60, (
                f"cell {c['id']}: {text.count(chr(10))} lines of output"
            )
            assert not re.search(r"/tmp/|/work/|/root/|/home/\w|/Users/\w", text), (
                f"cell {c['id']}: a path of one machine"
            )


@pytest.mark.parametrize("path", BOOKS, ids=names(BOOKS))
def test_no_notebook_leaves_gradients_off(path):
    "nbdev_test runs several of them in one process, one after the other"
    for c in code_cells(path):
        for line in source(c).splitlines():
            assert not line.startswith("torch.set_grad_enabled(False"), f"cell {c['id']}: {line}"


@pytest.mark.parametrize("path", NBS, ids=names(NBS))
def test_chapter_has_its_bones(path):
    cs = cells(path)
    assert re.match(r"# .+\n+> .+", source(cs[0])), "the first cell is '# Title' and '> one-line promise'"
    saved = [out for c in code_cells(path) for out in c.get("outputs", [])]
    kinds = {kind.split("/")[0] for out in saved for kind in out.get("data", {})}
    assert "image" in kinds, "no picture among the saved outputs"
    assert any("assert" in source(c) or "test_" in source(c) for c in code_cells(path)), "no check"


TEXT = {".ipynb", ".py", ".rs", ".md", ".sh", ".toml", ".ini", ".json", ".lock", ".txt", ".html", ".yml", ""}


def test_no_traces_of_one_machine():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    me = Path(__file__).resolve()
    here, home = re.escape(f"{ROOT}/"), re.escape(f"{Path.home()}/")
    indexes = r"--(?:extra-)?index-url[ =]http|registry\s*=\s*['\"]?http"
    bad = re.compile(rf"{here}|{home}|/work/(?:main|shared)|{indexes}")
    hits = []
    for f in filter(None, listed):
        p = ROOT / f
        if p != me and p.is_file() and p.suffix in TEXT and p.stat().st_size < 5_000_000:
            if m := bad.search(p.read_text(encoding="utf-8", errors="ignore")):
                hits.append(f"{f}: {m[0]}")
    assert not hits, hits


def test_every_main_answers_help():
    mains = [
        m
        for m in sorted(CHAPTER)
        if re.search(r"^def main\(", (ROOT / "nanochat" / f"{m}.py").read_text(), re.M)
    ]
    stages = {"tokenizer", "scaling", "pretrain", "evaluate", "tasks", "sft", "grpo", "report"}
    assert stages | {"chat", "serve"} <= set(mains)
    code = """import contextlib, io, json, runpy, sys
out = {}
for m in sys.argv[1:]:
    text = io.StringIO(); sys.argv = [m, "--help"]; sys.modules.pop("nanochat."+m, None)
    with contextlib.redirect_stdout(text):
        try: runpy.run_module("nanochat."+m, run_name="__main__"); code = "no exit"
        except SystemExit as e: code = e.code
    out[m] = (code, text.getvalue())
print(json.dumps(out))"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *mains],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    for m, (status, text) in json.loads(done.stdout).items():
        assert status in (0, None), (m, status)
        node = next(
            n
            for n in ast.walk(ast.parse((ROOT / "nanochat" / f"{m}.py").read_text()))
            if isinstance(n, ast.FunctionDef) and n.name == "main"
        )
        assert ast.get_docstring(node).split("\n")[0] in " ".join(text.split()), m
        for a in node.args.args:
            assert re.search(rf"--{a.arg}\b.*\w", text) or re.search(rf"^\s+{a.arg}\b", text, re.M), (
                f"{m}: no help for {a.arg}"
            )


@pytest.fixture(scope="module")
def laptop():
    "The program bench/laptop.py as a module"
    spec = importlib.util.spec_from_file_location("laptop", ROOT / "bench" / "laptop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_laptop_records_show_their_clock(laptop):
    "A slow hour is seen as such; a record from before the clock was kept stays readable"
    name, old = next(iter(laptop.kept_summaries().items()))
    old.pop("matmul_gflops", None)
    new = {**old, "matmul_gflops": {"bfloat16": {"before": 867.2, "after": 433.4}}}
    assert "clock" not in laptop.tables({name: old})
    assert f"seed {old['seed']}: bfloat16 867 → 433" in laptop.tables({name: new})
    assert laptop.goals(old) == laptop.goals(new)


def test_readme_shows_what_was_measured(laptop):
    "The laptop tables are those of bench/results, figure for figure"
    kept = laptop.kept_summaries()
    assert len(kept) >= 3, "three seeds are kept"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert laptop.tables(kept) in readme, "README and bench/results differ: python bench/laptop.py --readme"

    def result(name):
        return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())

    race = result("shakespeare")
    reached = (
        f"reaches {race['our_bpb']:.2f} bits per byte of the last tenth in {race['ratio']:.2f} of the time"
    )
    train, grown, loader = map(result, ("tokenizer_train", "tokenizer_growth", "loader"))
    books = [x for x in train["rows"] if x["bytes"] > 3e7]
    faster = [x["times_as_fast"]["rustbpe"] for x in books]
    memory = [x["trainers"]["ours"]["peak_mb"] / x["trainers"]["rustbpe"]["peak_mb"] for x in books]
    speed = [x["tokens_per_s"] / 1e6 for x in loader["speed"] if x["way"] == "loader, arrays"]
    for words in (
        reached,
        f"{min(faster):.1f} to {max(faster):.1f} times as fast as the registry's `rustbpe`",
        f"a peak of {grown['rows'][-1]['ours']['peak_mb']:.0f} MB",
        f"at {min(speed):.1f} to {max(speed):.1f} million tokens a second",
    ):
        assert words in readme, words
    assert all(all(x["identical_merges"].values()) for x in train["rows"])
    assert max(memory) < 0.6 and grown["rows"][-1]["bytes"] > 1.9e9


def test_notes_on_the_step_are_those_of_its_measurement():
    "bench/README.md and bench/results/train.json"
    parts = json.loads((ROOT / "bench" / "results" / "train.json").read_text())["parts"]
    notes = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")

    def share(part, dtype, whose):
        sides = parts[part]["dtypes"][dtype]["sides"].items()
        return max(side["share_of_peak"] for name, side in sides if name.startswith(whose))

    ours, nanogpt, theirs = (share("shape", "bfloat16", who) for who in ("ours", "nanoGPT", "transformers"))
    for words in (
        f"nanoGPT's shape reaches {share('deep', 'float32', 'nanoGPT'):.1%} of the float32 peak",
        f"the best of ours reaches {ours:.0%} of that dtype's peak, nanoGPT's shape {nanogpt:.0%} "
        f"and transformers' NanoChat {theirs:.0%}",
    ):
        assert words in notes, words


# --- code that can be read aloud: at most 110 columns, one statement a line, no lambda with a name ---


def find_ruff():
    for name in (Path(sys.executable).with_name("ruff"), "ruff"):
        if found := shutil.which(name):
            return found
    missing("ruff", "no ruff in this environment: bash speedrun.sh setup")


def generated_lines(path):
    "The numbers of the lines that nbdev writes into a module: `# %%` comments and the list of exported names"
    found, inside = set(), False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        inside = inside or line.startswith("__all__ =")
        if inside or line.startswith("# %%"):
            found.add(number)
        inside = inside and not line.endswith("]")
    return found


def ruff_says(*folders):
    """{file: [complaint, ...]} of ruff about Python files, and about the code cells of notebooks

    What an exercise imports is there for the student to use: no notebook has to use it."""
    command = [find_ruff(), *"check --isolated --no-cache --output-format json --line-length 110".split()]
    command += ["--select", "E501,E701,E702,E731,F", "--extend-exclude", "_modidx.py"]
    command += ["--per-file-ignores", "exercises/**/*.ipynb:F401"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr
    complaints = {}
    for found in json.loads(done.stdout):
        path, row = Path(found["filename"]), found["location"]["row"]
        if path.suffix == ".py" and row in generated_lines(path):
            continue
        place = f"cell {found['cell']}, line {row}" if found.get("cell") else f"line {row}"
        complaints.setdefault(str(path.relative_to(ROOT)), []).append(
            f"{place}: {found['code']} {found['message']}"
        )
    return complaints


@pytest.mark.parametrize("folder", ["nanochat", "bench", "tests", "exercises", ".ci", "setup.py"])
def test_ruff_has_nothing_to_say(folder):
    said = ruff_says(folder).items()
    words = [f"{name}: {len(lines)} in all, the first at {lines[0]}" for name, lines in said]
    assert not words, "\n".join(words)


def test_exported_lines_are_short():
    "The same without ruff: at most 110 columns"
    for path in sorted((ROOT / "nanochat").glob("*.py")):
        if path.name == "_modidx.py":
            continue
        lines, generated = path.read_text(encoding="utf-8").splitlines(), generated_lines(path)
        long = [n for n, line in enumerate(lines, 1) if len(line) > 110 and n not in generated]
        assert not long, f"{path.name}: lines {long} have more than 110 columns"


@pytest.mark.parametrize("module", sorted(CHAPTER))
def test_no_call_returns_more_than_three_values(module):
    "What is more has names: a dataclass. (How many torch's autograd wants from `backward` is torch's to say)"
    tree = ast.parse((ROOT / "nanochat" / f"{module}.py").read_text(encoding="utf-8"))
    long = []
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) or function.name == "backward":
            continue
        for node in ast.walk(function):
            value = node.value if isinstance(node, (ast.Return, ast.Yield)) else None
            if isinstance(value, ast.Tuple) and len(value.elts) > 3:
                long.append(f"{function.name}, line {node.lineno}: {ast.unparse(value)}")
    assert not long, long


def test_speedrun_stays_small():
    "The script decides little: no more than 140 lines, and no program of another language within it"
    text = (ROOT / "speedrun.sh").read_text()
    assert text.count("\n") <= 140 and "<<" not in text


def test_world_stays_small():
    assert (ROOT / "nanochat" / "world.py").read_text(encoding="utf-8").count("\n") <= 1200


def test_runs_are_found_without_torch():
    "A finished run, a mistyped option, a set-up that is still good: all are answered before torch is loaded"
    command = [sys.executable, "-X", "importtime", "-c", "import nanochat.runs"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "nanochat.runs" in loaded
    heavy = {
        name for name in loaded if name.split(".")[0] in HEAVY | {"torch", "numpy", "tiktoken", "safetensors"}
    }
    assert not heavy, heavy


# --- figures: one look, and code that only draws is folded ---


def imports_matplotlib(path):
    return re.search(r"^\s*(?:import|from)\b.*\bmatplotlib\b", "\n".join(map(source, code_cells(path))), re.M)


@pytest.mark.parametrize("path", NBS, ids=names(NBS))
def test_figures_have_one_look(path):
    if not imports_matplotlib(path):
        return
    code = "\n".join(map(source, code_cells(path)))
    assert "rcParams" not in code, "sizes, fonts and colours are those of course.mplstyle"
    assert 'plt.style.use("course.mplstyle")' in code, "the import cell says plt.style.use"


DRAWING = re.compile(r"(?:plt|fig\w*|ax\w*|axes|FancyBboxPatch|FancyArrowPatch|Rectangle|Circle|Polygon)$")


def only_draws(code):
    "Is this a long cell in which most statements call matplotlib?"
    lines = [line for line in code.splitlines() if line.strip() and not re.match(r"\s*(?:#|[%!])", line)]
    if len(lines) <= 12 or code.startswith("#| export"):
        return False
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return False
    simple = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and not hasattr(n, "body")]
    draws = [n for n in simple if any(isinstance(x, ast.Name) and DRAWING.match(x.id) for x in ast.walk(n))]
    return len(draws) > len(simple) / 2


@pytest.mark.parametrize("path", NBS, ids=names(NBS))
def test_cells_that_only_draw_are_folded(path):
    shown = [c for c in code_cells(path) if not c["metadata"].get("jupyter", {}).get("source_hidden")]
    long = [c["id"] for c in shown if only_draws(source(c))]
    assert not long, (
        f"cells {long} only draw: fold them (metadata.jupyter.source_hidden), or split off the lesson"
    )
