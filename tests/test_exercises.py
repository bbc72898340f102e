"Exercises, for every chapter that has some: solutions pass, stubs fail kindly, each known wrong answer is refused and named"
import json, os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"exercises"))
import grade as grading

STEMS = grading.stems()
EXERCISES = [(stem, name) for stem in STEMS for name in grading.load_exercises(stem)]
WRONG = [(stem, name, k) for stem,name in EXERCISES for k in range(len(grading.load_exercises(stem)[name].wrong))]

def run(*args, **env):
    return subprocess.run([sys.executable, str(ROOT/"exercises"/"grade.py"), *map(str, args)], cwd="/", capture_output=True, text=True, timeout=300, env={**os.environ, **env})

def cells(path): return [c for c in json.loads(Path(path).read_text("utf-8"))["cells"]]

def altered(stem, tmp_path, **code):
    "A student's copy of the exercise notebook in which some stubs are replaced, by the name of their exercise"
    nb = json.loads((ROOT/"exercises"/f"{stem}.ipynb").read_text("utf-8"))
    code_cells = [c for c in nb["cells"] if c["cell_type"] == "code"]
    for stub,graded in zip(code_cells, code_cells[1:]):
        for _,name in grading.GRADE_CALL.findall("".join(graded["source"])):
            if name in code: stub["source"] = code[name]
    path = tmp_path/f"{stem}.ipynb"
    path.write_text(json.dumps(nb))
    return path

def test_there_are_exercises(): assert "01_bpe" in STEMS

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
    assert 2 <= len(exercises) <= 5
    for ex in exercises.values(): assert len(ex.wrong) >= 2 and ex.probes and ex.points > 0

@pytest.mark.parametrize("stem", STEMS)
def test_notebooks_have_task_stub_hints_and_grade_cell(stem):
    exercises = grading.load_exercises(stem)
    both = {where: cells(ROOT/"exercises"/where/f"{stem}.ipynb") for where in ("", "solutions")}
    for where,nb in both.items():
        graded = [n for c in nb if c["cell_type"] == "code" for s,n in grading.GRADE_CALL.findall("".join(c["source"])) if s == stem]
        assert graded == list(exercises), f"grade cells of {where or 'exercises'}/{stem}"
    text = "".join("".join(c["source"]) for c in both[""])
    assert text.count("raise NotImplementedError") >= len(exercises)
    assert text.count("<details>") == text.count("</details>") == 3*len(exercises)
    assert not any(c.get("outputs") for c in both[""])

@pytest.mark.parametrize("stem", STEMS)
def test_solutions_pass(stem):
    done = run(stem[:2], "--solutions")
    assert done.returncode == 0, done.stdout+done.stderr
    assert done.stdout.count("solved") == len(grading.load_exercises(stem))

@pytest.mark.parametrize("stem", STEMS)
def test_unsolved_stubs_fail_kindly(stem):
    done = run(stem[:2])
    exercises = grading.load_exercises(stem)
    assert done.returncode == 0 and "Traceback" not in done.stdout+done.stderr
    assert done.stdout.count("open: not solved yet") == len(exercises)
    assert done.stdout.splitlines()[-1].split()[-3:] == ["0", "/", str(sum(e.points for e in exercises.values()))]

def test_nbdev_test_passes_only_when_solved():
    def status(path):
        return subprocess.run([str(Path(sys.executable).parent/"nbdev_test"), "--path", path, "--n_workers", "0"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    unsolved, solved = status("exercises/01_bpe.ipynb"), status("exercises/solutions/01_bpe.ipynb")
    assert unsolved.returncode != 0 and "not solved yet" in unsolved.stdout+unsolved.stderr
    assert solved.returncode == 0, solved.stdout+solved.stderr
    assert "Success" in solved.stdout+solved.stderr

def test_each_exercise_stands_alone(tmp_path):
    "Broken, endless and fatal answers each cost their own points, and nobody else's"
    code = ["".join(c["source"]) for c in cells(ROOT/"exercises"/"solutions"/"01_bpe.ipynb") if c["cell_type"] == "code"]
    solution = next(c for c in code if c.startswith("def stream("))
    path = altered("01_bpe", tmp_path, overlap="def count_apart(ids) return 1", hasty="import os; os._exit(3)",
                   changes="while True:\n    try: pass\n    except Exception: pass", streaming=solution, language="def my_language(): raise SystemExit(5)")
    done = run("01", "--file", path, NANOCHAT_CELL_SECONDS="3")
    assert done.returncode == 0, done.stderr
    lines = {l.split(".")[0].strip(): l for l in done.stdout.splitlines() if ". " in l}
    assert "error" in lines["1"] and "SyntaxError" in lines["1"]
    assert "error" in lines["2"] and "0 / 3" in lines["2"]
    assert "0 / 4" in lines["3"] and "open" not in lines["3"]
    assert lines["4"].split()[-4:] == ["3", "/", "3", "solved"]
    assert "error" in lines["5"] and "SystemExit" in lines["5"]
    assert done.stdout.splitlines()[-1].split()[-3:] == ["3", "/", "15"]

def test_endless_and_odd_answers(tmp_path):
    path = altered("01_bpe", tmp_path, overlap="def count_apart(ids):\n    from itertools import count\n    return sum(count())",
                   hasty="encode_word = 5", changes="def glue_and_update(*a): return None", streaming="def stream(tokens): return [1]", language="def my_language(): return '(', 'x'")
    done = run("01", "--file", path, NANOCHAT_CELL_SECONDS="3")
    assert done.returncode == 0 and "Traceback" not in done.stdout+done.stderr
    assert done.stdout.splitlines()[-1].split()[-3:] == ["0", "/", "15"]
    assert "not a function" in done.stdout and "is there a `return`" in done.stdout

def test_named_mistake_in_the_table(tmp_path):
    done = run("01", "--file", altered("01_bpe", tmp_path, overlap="count_apart = count_pairs"))
    assert '"windows overlap"' in done.stdout

@pytest.mark.parametrize("args,words", [(("77",), "no exercises for chapter 77"), (("bpe",), "no exercises for chapter bpe"), (("01", "--file", "/nowhere.ipynb"), "no notebook /nowhere.ipynb"),
                                        (("01", "--file", __file__), "is not a notebook")])
def test_bad_arguments(args, words):
    done = run(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr, done.stderr

def test_grade_in_a_notebook(capsys):
    ex = grading.load_exercises("01_bpe")["overlap"]
    grading.grade("01_bpe", "overlap", ex.right)
    assert "solved, 2 of 2 points" in capsys.readouterr().out
    with pytest.raises(grading.NotYet, match="windows overlap"): grading.grade("01_bpe", "overlap", ex.wrong[0].answer)
    with pytest.raises(grading.NotYet, match="no exercise"): grading.grade("01_bpe", "nonsense", ex.right)
    with pytest.raises(grading.NotYet, match="not solved yet"):
        def stub(ids): raise NotImplementedError
        grading.grade("01_bpe", "overlap", stub)

def test_time_limits_nest():
    with pytest.raises(grading.TookTooLong):
        with grading.time_limit(.2):
            with grading.time_limit(5): pass
            while True: pass
