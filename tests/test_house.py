"The order of the house: the library is what the notebooks export, chapters look only backwards, notebooks keep their outputs and no machine's traces"
import ast, importlib.util, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT, environment

NBS = sorted((ROOT/"nbs").glob("[0-9A][0-9]_*.ipynb"))
BOOKS = [*NBS, *sorted((ROOT/"nbs").glob("index.ipynb")), *sorted((ROOT/"exercises").rglob("*.ipynb")), *sorted((ROOT/"lectures").glob("*.ipynb"))]
BOOKS = [p for p in BOOKS if ".ipynb_checkpoints" not in p.parts]
names = lambda paths: [str(p.relative_to(ROOT)) for p in paths]
cells = lambda path: json.loads(path.read_text(encoding="utf-8"))["cells"]
source = lambda cell: "".join(cell["source"])

def module_of(path):
    "The module that a chapter exports, or None"
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code"), re.M)
    return found and found[1]

def place(path):
    "Where a notebook stands in the order of the house: appendices before all chapters"
    return (path.name[0] != "A", int(path.name[:2].lstrip("A")))

CHAPTER = {module_of(p): place(p) for p in NBS if module_of(p)}     # module: place of its chapter

def imported(code):
    "Modules of the library that some code imports"
    lines = [re.sub(r"^(\s*)[%!].*", r"\1pass", l) for l in code.splitlines()]           # notebook commands are no Python
    out = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ImportFrom):
            if node.level or node.module == "nanochat": out |= {a.name for a in node.names} if node.module in (None, "nanochat") else {node.module.split(".")[0]}
            elif (node.module or "").startswith("nanochat."): out.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import): out |= {a.name.split(".")[1] for a in node.names if a.name.startswith("nanochat.")}
    return out

def test_all_chapters_are_there():
    assert {f"{n:02}" for n in range(25)} - {"00", "07", "12"} | {"A1", "A2", "A3"} <= {p.name[:2] for p in NBS}
    assert (ROOT/"nbs"/"index.ipynb").exists()

def test_library_is_what_the_notebooks_export(tmp_path):
    for part in ("settings.ini", "setup.py", "pyproject.toml", "README.md"): shutil.copy(ROOT/part, tmp_path)
    shutil.copytree(ROOT/"nbs", tmp_path/"nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (tmp_path/"nanochat").mkdir(); shutil.copy(ROOT/"nanochat"/"__init__.py", tmp_path/"nanochat")
    subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path, check=True, capture_output=True, text=True, env=environment())
    fresh = {p.name: p.read_text() for p in (tmp_path/"nanochat").glob("*.py")}
    kept = {p.name: p.read_text() for p in (ROOT/"nanochat").glob("*.py")}
    assert set(fresh) == set(kept), f"only in the library or only exported: {set(fresh)^set(kept)}"
    stale = [name for name in fresh if fresh[name] != kept[name]]
    assert not stale, f"{', '.join(stale)}: not what the notebooks export; run nbdev_export"

@pytest.mark.parametrize("path", NBS, ids=names(NBS))
def test_imports_only_from_smaller_chapters(path):
    number, own = place(path), module_of(path)
    code = {"the notebook": "\n\n".join(source(c) for c in cells(path) if c["cell_type"] == "code" and not source(c).startswith("%%"))}
    if own: code[f"nanochat/{own}.py"] = (ROOT/"nanochat"/f"{own}.py").read_text()
    for where, text in code.items():
        late = {m for m in imported(text) if m in CHAPTER and m != own and CHAPTER[m] >= number}
        assert not late, f"{where} of {path.name[:2]} imports {late}: later chapters"
        if own: assert not re.search(r"^\s*from nanochat\.\w+ import \*", text, re.M) or where == "the notebook", f"{where}: stars hide where a name comes from"

def test_importing_a_module_does_nothing(tmp_path):
    "No download, no file, no word: importing the whole library in an empty home"
    code = "import importlib\nfor m in %r: importlib.import_module('nanochat.'+m)" % sorted(CHAPTER)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path/"base", HOME=tmp_path/"home"))
    assert done.returncode == 0 and done.stdout == "" and done.stderr == "", done.stdout+done.stderr
    assert not list(tmp_path.iterdir())

HEAVY = {"datasets", "fastapi", "uvicorn", "matplotlib", "ipywidgets", "transformers", "pyarrow", "IPython"}
@pytest.mark.parametrize("module", sorted(CHAPTER))
def test_heavy_packages_only_where_they_are_used(module):
    top = ast.parse((ROOT/"nanochat"/f"{module}.py").read_text()).body
    found = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names} | {(n.module or "").split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
    assert not found & HEAVY, f"nanochat/{module}.py imports {found & HEAVY} at its top"

@pytest.mark.parametrize("path", BOOKS, ids=names(BOOKS))
def test_notebook_is_clean(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"], "widget state: remove metadata.widgets"
    assert all(c.get("id") for c in nb["cells"]), "cells without ids: run nbdev_clean once"
    assert len({c["id"] for c in nb["cells"]}) == len(nb["cells"]), "two cells of one id"
    for c in nb["cells"]:
        for out in c.get("outputs", []):
            if path.parts[-2] != "exercises": assert out["output_type"] != "error", f"an error is saved in cell {c['id']}"
            text = "".join(out.get("text", [])) if "text" in out else "".join("".join(v) for k, v in out.get("data", {}).items() if k.startswith("text/"))
            assert "text" not in out or text.count("\n") <= 60, f"cell {c['id']}: {text.count(chr(10))} lines of output"
            assert not re.search(r"/tmp/|/work/|/root/|/home/\w|/Users/\w", text), f"cell {c['id']}: a path of one machine"

@pytest.mark.parametrize("path", NBS, ids=names(NBS))
def test_chapter_has_its_bones(path):
    cs = cells(path)
    assert re.match(r"# .+\n+> .+", source(cs[0])), "the first cell is '# Title' and '> one-line promise'"
    kinds = {k.split("/")[0] for c in cs if c["cell_type"] == "code" for o in c.get("outputs", []) for k in o.get("data", {})}
    assert "image" in kinds, "no picture among the saved outputs"
    assert any("assert" in source(c) or "test_" in source(c) for c in cs if c["cell_type"] == "code"), "no check"

TEXT = {".ipynb", ".py", ".rs", ".md", ".sh", ".toml", ".ini", ".json", ".lock", ".txt", ".html", ".yml", ""}
def test_no_traces_of_one_machine():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True).stdout.split("\n")
    me = Path(__file__).resolve()
    bad = re.compile("|".join([re.escape(str(ROOT)+"/"), re.escape(str(Path.home())+"/"), r"/work/(?:main|shared)", r"--(?:extra-)?index-url[ =]http", r"registry\s*=\s*['\"]?http"]))
    hits = []
    for f in filter(None, listed):
        p = ROOT/f
        if p != me and p.is_file() and p.suffix in TEXT and p.stat().st_size < 5_000_000:
            if m := bad.search(p.read_text(encoding="utf-8", errors="ignore")): hits.append(f"{f}: {m[0]}")
    assert not hits, hits

def test_every_main_answers_help():
    mains = [m for m in sorted(CHAPTER) if re.search(r"^def main\(", (ROOT/"nanochat"/f"{m}.py").read_text(), re.M)]
    assert {"tokenizer", "scaling", "pretrain", "evaluate", "tasks", "sft", "grpo", "chat", "serve", "report"} <= set(mains)
    code = """import contextlib, io, json, runpy, sys
out = {}
for m in sys.argv[1:]:
    text = io.StringIO(); sys.argv = [m, "--help"]; sys.modules.pop("nanochat."+m, None)
    with contextlib.redirect_stdout(text):
        try: runpy.run_module("nanochat."+m, run_name="__main__"); code = "no exit"
        except SystemExit as e: code = e.code
    out[m] = (code, text.getvalue())
print(json.dumps(out))"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *mains], capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for m, (status, text) in json.loads(done.stdout).items():
        assert status in (0, None), (m, status)
        node = next(n for n in ast.walk(ast.parse((ROOT/"nanochat"/f"{m}.py").read_text())) if isinstance(n, ast.FunctionDef) and n.name == "main")
        assert ast.get_docstring(node).split("\n")[0] in " ".join(text.split()), m
        for a in node.args.args: assert re.search(rf"--{a.arg}\b.*\w", text) or re.search(rf"^\s+{a.arg}\b", text, re.M), f"{m}: no help for {a.arg}"

def test_readme_shows_what_was_measured():
    "The laptop tables are those of bench/results, figure for figure"
    spec = importlib.util.spec_from_file_location("laptop", ROOT/"bench"/"laptop.py"); laptop = importlib.util.module_from_spec(spec); spec.loader.exec_module(laptop)
    kept = laptop.kept_summaries()
    assert len(kept) >= 3, "three seeds are kept"
    assert laptop.tables(kept) in (ROOT/"README.md").read_text(encoding="utf-8"), "README and bench/results differ: python bench/laptop.py --readme"
    r = json.loads((ROOT/"bench"/"results"/"shakespeare.json").read_text())
    assert f"reaches {r['our_bpb']:.2f} bits per byte of the last tenth in {r['ratio']:.2f} of the time" in (ROOT/"README.md").read_text(encoding="utf-8")
    train, grown, loader = (json.loads((ROOT/"bench"/"results"/f"{k}.json").read_text()) for k in ("tokenizer_train", "tokenizer_growth", "loader"))
    faster = [x["times_as_fast"]["rustbpe"] for x in train["rows"] if x["bytes"] > 3e7]
    memory = [x["trainers"]["ours"]["peak_mb"]/x["trainers"]["rustbpe"]["peak_mb"] for x in train["rows"] if x["bytes"] > 3e7]
    speed = [x["tokens_per_s"]/1e6 for x in loader["speed"] if x["way"] == "loader, arrays"]
    for words in (f"{min(faster):.1f} to {max(faster):.1f} times as fast as the registry's `rustbpe`", f"a peak of {grown['rows'][-1]['ours']['peak_mb']:.0f} MB", f"at {min(speed):.1f} to {max(speed):.1f} million tokens a second"):
        assert words in (ROOT/"README.md").read_text(encoding="utf-8"), words
    assert all(all(x["identical_merges"].values()) for x in train["rows"]) and max(memory) < .6 and grown["rows"][-1]["bytes"] > 1.9e9
