"Exercises of every chapter: solutions pass, stubs fail kindly, each known wrong answer is refused and named"

import json, os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "exercises"))
import grade as grading

STEMS = grading.stems()
EXERCISES = [(stem, name) for stem in STEMS for name in grading.load_exercises(stem)]
WRONG = [
    (stem, name, k) for stem, name in EXERCISES for k in range(len(grading.load_exercises(stem)[name].wrong))
]


def run(*args, **env):
    return subprocess.run(
        [sys.executable, str(ROOT / "exercises" / "grade.py"), *map(str, args)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **env},
    )


def cells(path):
    return [c for c in json.loads(Path(path).read_text("utf-8"))["cells"]]


def first_cell(nb):
    return next("".join(c["source"]) for c in nb if c["cell_type"] == "code")


def altered(stem, tmp_path, **code):
    "A student's copy of the exercise notebook, with some stubs replaced, by the names of their exercises"
    nb = json.loads((ROOT / "exercises" / f"{stem}.ipynb").read_text("utf-8"))
    code_cells = [c for c in nb["cells"] if c["cell_type"] == "code"]
    for stub, graded in zip(code_cells, code_cells[1:]):
        for _, name in grading.GRADE_CALL.findall("".join(graded["source"])):
            if name in code:
                stub["source"] = code[name]
    path = tmp_path / f"{stem}.ipynb"
    path.write_text(json.dumps(nb))
    return path


def test_there_are_exercises():
    assert "01_bpe" in STEMS


@pytest.mark.parametrize("stem,name", EXERCISES)
def test_right_answer_passes(stem, name):
    ex = grading.load_exercises(stem)[name]
    assert grading.judge(name, ex, ex.right) == grading.Result(name, "solved", ex.points)


@pytest.mark.parametrize("stem,name,k", WRONG)
def test_wrong_answer_is_refused_and_named(stem, name, k):
    ex = grading.load_exercises(stem)[name]
    wrong = ex.wrong[k]
    result = grading.judge(name, ex, wrong.answer)
    assert result.status in ("wrong", "error") and result.points == 0
    assert f'"{wrong.name}"' in result.message and wrong.why in result.message, result.message


@pytest.mark.parametrize("stem", STEMS)
def test_banks_are_not_empty(stem):
    exercises = grading.load_exercises(stem)
    assert (1 if stem[0] == "A" else 2) <= len(exercises) <= 5
    for ex in exercises.values():
        assert len(ex.wrong) >= 2 and ex.probes and ex.points > 0


@pytest.mark.parametrize("stem", STEMS)
def test_notebooks_have_task_stub_hints_and_grade_cell(stem):
    exercises = grading.load_exercises(stem)
    both = {where: cells(ROOT / "exercises" / where / f"{stem}.ipynb") for where in ("", "solutions")}
    for where, nb in both.items():
        graded = [
            n
            for c in nb
            if c["cell_type"] == "code"
            for s, n in grading.GRADE_CALL.findall("".join(c["source"]))
            if s == stem
        ]
        assert graded == list(exercises), f"grade cells of {where or 'exercises'}/{stem}"
    text = "".join("".join(c["source"]) for c in both[""])
    assert text.count("raise NotImplementedError") >= len(exercises)
    assert all(
        first_cell(nb) == first_cell(cells(ROOT / "exercises" / "01_bpe.ipynb")) for nb in both.values()
    )
    assert text.count("<details>") == text.count("</details>") == 3 * len(exercises)
    assert not any(c.get("outputs") for c in both[""])


def tables(done):
    "What one `grade` of all chapters says of each"
    blocks, stem = {}, None
    for line in done.stdout.splitlines():
        stem = line if line in STEMS else stem
        blocks.setdefault(stem, []).append(line)
    return blocks


@pytest.fixture(scope="module")
def solved():
    return run("--solutions")


@pytest.mark.parametrize("stem", STEMS)
def test_solutions_pass(stem, solved):
    said = "\n".join(tables(solved)[stem])
    assert said.count("solved") == len(grading.load_exercises(stem)), said


@pytest.mark.parametrize("stem", STEMS if os.environ.get("NANOCHAT_LONG") else STEMS[::5])
def test_unsolved_stubs_fail_kindly(stem):
    done, exercises = run(stem[:2]), grading.load_exercises(stem)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("open: not solved yet") == len(exercises), done.stdout
    total = sum(e.points for e in exercises.values())
    assert done.stdout.splitlines()[-1].split()[-3:] == ["0", "/", str(total)]


def test_the_door_ends_well_with_all_chapters(solved):
    total = sum(e.points for stem in STEMS for e in grading.load_exercises(stem).values())
    assert solved.returncode == 0 and "Traceback" not in solved.stdout + solved.stderr
    assert solved.stdout.splitlines()[-1] == f"all chapters: {total} of {total} points"


def test_nbdev_test_passes_only_when_solved():
    def status(path):
        return subprocess.run(
            [str(Path(sys.executable).parent / "nbdev_test"), "--path", path, "--n_workers", "0"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    unsolved, solved = status("exercises/01_bpe.ipynb"), status("exercises/solutions/01_bpe.ipynb")
    assert unsolved.returncode != 0 and "not solved yet" in unsolved.stdout + unsolved.stderr
    assert solved.returncode == 0, solved.stdout + solved.stderr
    assert "Success" in solved.stdout + solved.stderr


def test_each_exercise_stands_alone(tmp_path):
    "Broken, endless and fatal answers each cost their own points, and nobody else's"
    code = [
        "".join(c["source"])
        for c in cells(ROOT / "exercises" / "solutions" / "01_bpe.ipynb")
        if c["cell_type"] == "code"
    ]
    solution = next(c for c in code if c.startswith("def stream("))
    path = altered(
        "01_bpe",
        tmp_path,
        overlap="def count_apart(ids) return 1",
        hasty="import os; os._exit(3)",
        changes="while True:\n    try: pass\n    except Exception: pass",
        streaming=solution,
        language="def my_language(): raise SystemExit(5)",
    )
    done = run("01", "--file", path, NANOCHAT_CELL_SECONDS="3")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    lines = {
        l.split(".")[0].strip(): " ".join(told[i : i + 4])
        for i, l in enumerate(told)
        if l[:5].strip()[:1].isdigit() and ". " in l[:5] + " "
    }
    assert "error" in lines["1"] and "SyntaxError" in lines["1"]
    assert "error" in lines["2"] and "0 / 3" in lines["2"]
    assert "0 / 4" in lines["3"] and "open" not in lines["3"]
    assert lines["4"].split("solved")[0].split()[-3:] == ["3", "/", "3"]
    assert "error" in lines["5"] and "SystemExit" in lines["5"]
    assert done.stdout.splitlines()[-1].split()[-3:] == ["3", "/", "15"]


def test_endless_and_odd_answers(tmp_path):
    path = altered(
        "01_bpe",
        tmp_path,
        overlap="def count_apart(ids):\n    from itertools import count\n    return sum(count())",
        hasty="encode_word = 5",
        changes="def glue_and_update(*a): return None",
        streaming="def stream(tokens): return [1]",
        language="def my_language(): return '(', 'x'",
    )
    done = run("01", "--file", path, NANOCHAT_CELL_SECONDS="3", NANOCHAT_CHECK_SECONDS="3")
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[-3:] == ["0", "/", "15"]
    assert "not a function" in done.stdout and "is there a `return`" in done.stdout


def test_named_mistake_in_the_table(tmp_path):
    done = run("01", "--file", altered("01_bpe", tmp_path, overlap="count_apart = count_pairs"))
    assert '"windows overlap"' in done.stdout


@pytest.mark.parametrize(
    "args,words",
    [
        (("77",), "no exercises for chapter 77"),
        (("bpe",), "no exercises for chapter bpe"),
        (("01", "--file", "/nowhere.ipynb"), "no notebook /nowhere.ipynb"),
        (("01", "--file", __file__), "is not a notebook"),
        (("01", "--file", "/tmp"), "is a folder"),
        (("--file", "/dev/zero"), "is not a notebook"),
        (
            ("01", "--file", ROOT / "exercises" / "03_corpus.ipynb"),
            "belongs to chapter 03_corpus, not to 01_bpe",
        ),
        (("--file", ROOT / "nbs" / "01_bpe.ipynb"), "has no grade cells"),
        (("--folder", "/nowhere"), "no folder /nowhere"),
        (("--folder", "/tmp", "--solutions"), "one of --file, --folder, --solutions"),
        (("01", "--file", "\x1b[2J"), "no notebook"),
    ],
)
def test_bad_arguments(args, words):
    done = run(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


def test_grade_in_a_notebook(capsys):
    ex = grading.load_exercises("01_bpe")["overlap"]
    grading.grade("01_bpe", "overlap", ex.right)
    assert "solved, 2 of 2 points" in capsys.readouterr().out
    with pytest.raises(grading.NotYet, match="windows overlap"):
        grading.grade("01_bpe", "overlap", ex.wrong[0].answer)
    with pytest.raises(grading.NotYet, match="no exercise"):
        grading.grade("01_bpe", "nonsense", ex.right)
    with pytest.raises(grading.NotYet, match="not solved yet"):

        def stub(ids):
            raise NotImplementedError

        grading.grade("01_bpe", "overlap", stub)


def test_time_limits_nest():
    with pytest.raises(grading.TookTooLong):
        with grading.time_limit(0.2):
            with grading.time_limit(5):
                pass
            while True:
                pass


# ---- a file is graded as the notebook runs ----

SOLVED = {
    name: next("".join(c["source"]) for c, g in zip(code, code[1:]) if f'"{name}"' in "".join(g["source"]))
    for code in [
        [c for c in cells(ROOT / "exercises" / "solutions" / "01_bpe.ipynb") if c["cell_type"] == "code"]
    ]
    for name in grading.load_exercises("01_bpe")
}


def results(path, stem="01_bpe"):
    return {r.name: r for r in grading.grade_file(stem, path).results}


MAGICS = {
    "a command": "!echo hello",
    "a command's output": "files = !ls\nassert len(files) > 0",
    "await": (
        "import asyncio\n"
        "await asyncio.sleep(0)\n"
        "y = [i async for i in (lambda: (i for i in []))()] if False else 1"
    ),
    "names in a command": (
        "who = 'me'\nassert (lambda f: f)(1)\nfiles = !echo {who} $who\nassert files == ['me me']"
    ),
    "help": "count_pairs?",
    "more help": "??count_pairs",
    "timed": "x = %time 1+1\nassert x == 2",
    "a timed cell": "%%time\nz = 3",
    "settings": "%matplotlib inline\n%load_ext autoreload\n%autoreload 2",
    "a script": "%%bash\necho hi",
    "display": "display(1)\nlen(In), len(Out), get_ipython()",
    "an underscore": "1+1",
    "the last result": "assert _ == 2",
}


def test_what_jupyter_understands_counts_by_the_door(tmp_path):
    "Each of these stands before an answer, in its cell and in one of its own"
    nb = json.loads(altered("01_bpe", tmp_path, **SOLVED).read_text("utf-8"))
    nb["cells"][2:2] = [
        dict(cell_type="code", source=s, metadata={}, outputs=[], execution_count=None)
        for s in MAGICS.values()
    ]
    for c in nb["cells"]:
        text = "".join(c["source"])
        if c["cell_type"] == "code" and text.startswith("def ") and "%%" not in text:
            c["source"] = (
                "!echo hello\nt = %time 1+1\nfiles = !ls\n" + text + "\nawait __import__('asyncio').sleep(0)"
            )
    path = tmp_path / "magic.ipynb"
    path.write_text(json.dumps(nb))
    assert [(r.name, r.status) for r in results(path).values()] == [(n, "solved") for n in SOLVED]


def test_without_ipython_a_magic_is_named(monkeypatch):
    "One line, and what follows still counts"
    import student

    monkeypatch.setitem(sys.modules, "IPython.core.interactiveshell", None)

    class Notebook:
        number, grade = 7, print

    shell = student.Shell(Notebook)
    assert shell.run("x = 1") is None and shell.run("assert x == 1") is None
    for source in ("!echo hello", "files = !ls", "x = %time 1+1", "x?", "%%bash\nls"):
        assert "needs IPython, which is not installed here: not graded" in str(shell.run(source)), source
    assert student.where(shell.run("1\n2 +")) == (7, 2, "2 +")


def test_the_cell_that_should_have_defined_a_name_is_named(tmp_path):
    nb = json.loads(
        altered(
            "01_bpe",
            tmp_path,
            **{
                **SOLVED,
                "overlap": "def count_apart(ids) return 1",
                "hasty": "raise KeyError('mine')\ndef encode_word(*_): pass",
                "changes": "glue_and_updat = 1",
            },
        ).read_text("utf-8")
    )
    nb["cells"].insert(
        3,
        dict(
            cell_type="code",
            source="1/0  # has nothing to do with it",
            metadata={},
            outputs=[],
            execution_count=None,
        ),
    )
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(nb))
    number = {"".join(c["source"]): i + 1 for i, c in enumerate(nb["cells"])}
    told = {n: r.message for n, r in results(path).items()}
    assert (
        "SyntaxError" in told["overlap"]
        and f"in cell {number['def count_apart(ids) return 1']}, line 1: `def count_apart(ids) return 1`"
        in told["overlap"]
    )
    assert (
        "KeyError: 'mine'" in told["hasty"]
        and "raise KeyError('mine')" in told["hasty"]
        and "encode_word" in told["hasty"]
    )
    assert "`glue_and_update` is not defined: no cell that ran defines it" in told["changes"]
    assert not any("ZeroDivision" in t or "1/0" in t for t in told.values())
    assert not told["streaming"] and not told["language"]


def test_errors_come_with_their_line_and_input(tmp_path):
    code = (
        "def count_apart(ids):\n"
        "    found = {}\n"
        "    for i in range(len(ids)):\n"
        "        found[ids[i+1]] = 1\n"
        "    return found"
    )
    told = results(altered("01_bpe", tmp_path, overlap=code))["overlap"].message
    assert "your code raised IndexError: list index out of range" in told
    assert "line 4: `found[ids[i+1]] = 1`" in told and "with ids = [5]" in told
    space = {}
    exec(compile(code, "a cell", "exec"), space)
    told = grading.judge("overlap", grading.load_exercises("01_bpe")["overlap"], space["count_apart"]).message
    assert "IndexError" in told and "in line 4 of its cell" in told and "with ids = [5]" in told


def test_the_table_shows_the_measured_line_and_whole_words(tmp_path, capsys):
    assert (
        grading.main(["01", "--file", str(altered("01_bpe", tmp_path, overlap="count_apart = count_pairs"))])
        == 0
    )
    out = " ".join(capsys.readouterr().out.split())
    ex = grading.load_exercises("01_bpe")["overlap"]
    assert "count_apart([1, 1, 1]): merge glues (1, 1) 1 time, your count says 2" in out
    assert ex.wrong[0].why in out


@pytest.mark.parametrize(
    "value,text",
    [
        (11.2e9, "11.2e9"),
        (1e9, "1e9"),
        (123456.789, "123.456789e3"),
        (0.5, "0.5"),
        (1_000_000, "1_000_000"),
        ([1, 2.5, "a"], "[1, 2.5, 'a']"),
        ((1,), "(1,)"),
        ({"a": 5e6}, "{'a': 5e6}"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … 20 in all]"),
        (-2.5e6, "-2.5e6"),
        (float("inf"), "inf"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_numbers_as_people_write_them(value, text):
    assert grading.readable(value) == text


@pytest.mark.parametrize(
    "args", [("01", "--file", "mine.ipynb"), ("--file", "mine.ipynb"), ("--folder", ".")]
)
def test_files_are_relative_to_the_caller(args, tmp_path):
    altered("01_bpe", tmp_path, **SOLVED).rename(tmp_path / "mine.ipynb")
    done = run(*args, NANOCHAT_CALLER=str(tmp_path))
    assert done.returncode == 0 and "15 / 15" in done.stdout, done.stdout + done.stderr


def test_outside_the_course_one_sentence(tmp_path):
    "A copy of the notebook says where it belongs, in its first cell and in every grade cell"
    code = [first_cell(cells(ROOT / "exercises" / "01_bpe.ipynb")), 'grade("01_bpe", "overlap", None)']
    script = (
        "import json, sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "s = InteractiveShell.instance()\n"
        "for c in json.loads(sys.argv[1]): s.run_cell(c)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": ""},
    )
    said = [l for l in done.stdout.splitlines() if l.strip()]
    assert len(said) == 2 and all("copy it into the course's folder `exercises`" in l for l in said), (
        done.stdout + done.stderr
    )


def test_a_mistake_that_depends_on_the_process_is_named_in_every_process():
    "With hash seed 2 the built-in hash also holds out the same texts at 0.05% and 0.1%, by chance"
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'exercises')!r}, {str(ROOT)!r}]\n"
        "import grade\n"
        "ex = grade.load_exercises('02_world')['checksum']\n"
        "found = grade.diagnose(ex, lambda text, percent: hash(text) % 10_000 < percent*100)\n"
        "print(found.name, *grade.behaviour(ex, found.answer, ex.probes[0]), sep=', ')"
    )
    for hash_seed in ("2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert done.stdout == "the built-in hash, hash\n", (hash_seed, done.stdout, done.stderr)


@pytest.mark.parametrize("stem", STEMS)
def test_known_mistakes_are_refused_and_named_by_the_door_too(stem, tmp_path, monkeypatch):
    "The student's process runs them: for this test it may read the grader"
    monkeypatch.setenv("NANOCHAT_GRADE_LEVELS", "process limits namespace")
    exercises = grading.load_exercises(stem)
    loader = (
        "import sys, importlib.util\n"
        "mine = sys.modules.pop('grade')\n"
        f"sys.path.insert(0, {str(ROOT / 'exercises')!r})\n"
        "import grade as real\n"
        f"E = real.load_exercises({stem!r})\n"
        "sys.modules['grade'] = mine"
    )
    wrong = [(name, k) for name, ex in exercises.items() for k in range(0, len(ex.wrong), 3)]
    source = [loader, *(f'grade("{stem}", "{name}", E["{name}"].wrong[{k}].answer)' for name, k in wrong)]
    path = tmp_path / f"{stem}.ipynb"
    path.write_text(json.dumps(dict(cells=[dict(cell_type="code", source=s) for s in source])))
    book = grading.Book(stem, path, {}, lambda **line: None)
    book.judge()
    assert not book.failed.get(1) and len(book.verdicts) == len(wrong), (book.failed, book.ended)
    for i, (name, k) in enumerate(wrong):
        result = book.verdicts[i + 2, name]
        assert result.status in ("wrong", "error") and not result.points
        assert f'"{exercises[name].wrong[k].name}"' in result.message, (name, k, result)
