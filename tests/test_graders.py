"Graders under attack: wrong answers that their banks do not know are refused, other right ones are accepted"

import ast
import importlib
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "exercises"), str(ROOT / "tests")]
import grade as grading

EXERCISES = {stem: grading.load_exercises(stem) for stem in grading.stems()}


def answers_to(stem):
    "Those of a chapter; a chapter without any fails its test below, and stops no other test"
    if not (ROOT / "tests" / "answers" / f"c{stem}.py").exists():
        return []
    return importlib.import_module(f"answers.c{stem}").answers.all


ANSWERS = [(stem, a) for stem in EXERCISES for a in answers_to(stem)]
WRONG = [pytest.param(s, a, id=f"{s[:2]}-{a.exercise}-{a.label}") for s, a in ANSWERS if not a.right]
RIGHT = [pytest.param(s, a, id=f"{s[:2]}-{a.exercise}-{a.label}") for s, a in ANSWERS if a.right]
NAMED = [pytest.param(s, a, id=f"{s[:2]}-{a.exercise}-{a.label}") for s, a in ANSWERS if a.named]


def name_of(stem, answer):
    "The known mistake that an answer is taken for"
    known = grading.diagnose(EXERCISES[stem][answer.exercise], answer.function)
    return known and known.name


def refusal(exercise, answer):
    "What the check says of a wrong answer in a notebook; None if it accepts it"
    answer = grading.Local(answer)
    answer.right = exercise.right
    try:
        with grading.time_limit(exercise.seconds):
            exercise.check(answer)
    except grading.TookTooLong:
        return "took too long"
    except (AssertionError, grading.NotData) as e:
        return f"refused: {e}"
    except Exception as e:  # the answer's own errors know what to tell; others are the check's
        return f"refused: {e.told}" if hasattr(e, "told") else f"{type(e).__name__}: {e}"


@pytest.mark.parametrize("stem", EXERCISES)
def test_every_exercise_is_attacked(stem):
    for name in EXERCISES[stem]:
        mine = [a for s, a in ANSWERS if (s, a.exercise) == (stem, name)]
        labels = [a.label for a in mine]
        assert len(set(labels)) == len(labels), f"{name}: two answers have one label"
        assert sum(not a.right for a in mine) >= 10 and sum(a.right for a in mine) >= 2, name


@pytest.mark.parametrize("stem,answer", WRONG)
def test_wrong_answer_is_refused(stem, answer):
    told = refusal(EXERCISES[stem][answer.exercise], answer.function)
    assert told, "accepted"
    assert told.startswith("refused: ") and len(told) > 40, f"a student learns nothing from: {told}"


@pytest.mark.parametrize("stem,answer", NAMED)
def test_frequent_mistake_has_a_name(stem, answer):
    assert name_of(stem, answer) == answer.named


@pytest.mark.parametrize("stem,answer", RIGHT)
def test_other_right_answer_is_accepted(stem, answer):
    assert refusal(EXERCISES[stem][answer.exercise], answer.function) is None


class AlwaysEqual:
    "Equal to everything, and true, and three long"

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __hash__(self):
        return 1

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([AlwaysEqual(), AlwaysEqual()])

    def __getitem__(self, key):
        return AlwaysEqual()

    def __lt__(self, other):
        return True

    def __ge__(self, other):
        return True

    def __float__(self):
        return 1.0

    def __index__(self):
        return 1

    def __format__(self, spec):
        return "always equal"


ODD = [
    AlwaysEqual(),
    (AlwaysEqual(), AlwaysEqual()),
    [AlwaysEqual()] * 3,
    True,
    "",
    [],
    {},
    set(),
    b"",
    -1,
    float("nan"),
]


@pytest.mark.parametrize("value", ODD, ids=[f"{k}-{type(v).__name__}" for k, v in enumerate(ODD)])
def test_no_constant_passes_anywhere(value):
    for exercises in EXERCISES.values():
        for exercise in exercises.values():
            told = refusal(exercise, lambda *a: value)
            assert told and told.startswith("refused: "), f"{exercise.title}: {told}"


def told(stem, name, answer):
    return refusal(EXERCISES[stem][name], answer)


WRITTEN = [
    (11.2e9, "11.2e9"),
    (250_000_000, "250_000_000"),
    (1823, "1823"),
    (4.8, "4.8"),
    (1 / 3, repr(1 / 3)),
    (1234567.891, "1234567.891"),
    (True, "True"),
    (b"a", "b'a'"),
]


@pytest.mark.parametrize("x,text", WRITTEN)
def test_numbers_are_written_so_that_they_can_be_copied(x, text):
    from graders.common import number

    assert number(x) == text and eval(text) == x


def test_messages_hold_a_call_that_can_be_replayed():
    assert "cost(tokens=11.2e9, bytes_per_token=4.8," in told(
        "03_corpus", "costing", lambda *a: (1, 1.0, 1.0)
    )
    message = told("05_loader", "lossy", lambda buffer, size, bos: [bos] * size)
    assert "next_row([[" in message and "gives [" in message
    assert "cut_bytes(b'', 1) is 1" in told("03_corpus", "cutting", lambda data, n: n)


def test_an_error_is_told_with_its_call_and_its_line():
    def breaks(data, n):
        return data[n]

    line = breaks.__code__.co_firstlineno + 1
    message = told("03_corpus", "cutting", breaks)
    assert "your code raised IndexError: index out of range" in message
    assert f"in line {line} of its cell, `return data[n]`" in message and "with data = b'', n = 0" in message


@pytest.mark.parametrize("stem", EXERCISES)
def test_what_goes_to_the_student_holds_no_answers(stem):
    source = grading.helpers_source(str(ROOT / "exercises" / "graders" / f"{stem}.py"))
    defined = {node.name for node in ast.parse(source).body if hasattr(node, "name")}
    answers = {
        a.__name__
        for e in EXERCISES[stem].values()
        for a in (e.right, *(w.answer for w in e.wrong))
        if hasattr(a, "__name__")
    }
    assert not defined & (answers | {"as_early_as_can_be"})
    assert "Exercise(" not in source and "Wrong(" not in source


def test_a_name_that_two_helper_files_define_is_refused(tmp_path):
    (tmp_path / "common.py").write_text("def whole(x): return True\n")
    (tmp_path / "01_x.py").write_text("from graders.common import whole\ndef whole(x): return False\n")
    with pytest.raises(NameError, match="both define whole"):
        grading.definitions(tmp_path / "01_x.py")


@pytest.mark.parametrize("stem", EXERCISES)
def test_the_door_gives_the_verdict_of_the_notebook(stem, tmp_path, monkeypatch):
    "Answers once more in a process of its own, which for this test may read them: a third, all with --long"
    monkeypatch.setenv("NANOCHAT_GRADE_LEVELS", "process limits namespace")
    monkeypatch.setattr(grading, "diagnose", lambda exercise, answer: None)  # names are looked at above
    mine = [a for s, a in ANSWERS if s == stem]
    asked = [(k, a) for k, a in enumerate(mine) if k % 3 == 0 or os.environ.get("NANOCHAT_LONG")]
    load = f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom answers.c{stem} import answers"
    calls = [f'grade("{stem}", "{a.exercise}", answers.all[{k}].function)' for k, a in asked]
    path = tmp_path / f"{stem}.ipynb"
    cells = [dict(cell_type="code", source=source) for source in (load, *calls)]
    path.write_text(json.dumps(dict(cells=cells)))
    book = grading.Book(stem, path, {}, lambda **line: None)
    book.judge()
    assert not book.failed.get(1) and not book.ended, (book.failed.get(1), book.ended)
    for cell, (_, a) in enumerate(asked, 2):
        result = book.verdicts[cell, a.exercise]
        assert (result.status == "solved") == a.right, (a.exercise, a.label, result)
