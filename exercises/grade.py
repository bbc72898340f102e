"""Grades exercises: in a notebook's grade cell, and on the command line for whole files.

    python exercises/grade.py                     every chapter, your answers
    python exercises/grade.py 01                  one chapter
    python exercises/grade.py 01 --solutions      the solutions instead (status 1 unless all are right)
    python exercises/grade.py 01 --file PATH      somebody's copy of the exercise notebook

A grade cell calls `grade("01_bpe", "overlap", my_function)`. What is right is decided by `exercises/graders/01_bpe.py`,
which holds a dict EXERCISES = {name: Exercise(...)}. A file is run cell by cell in a process of its own, each cell with
a time limit and going on after errors, so that one broken answer never hides another. Answers run as ordinary
Python with your rights: grade only files that you would run yourself.
"""
import argparse, copy, importlib.util, json, os, re, signal, subprocess, sys, tempfile, threading, time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CELL_SECONDS = int(os.environ.get("NANOCHAT_CELL_SECONDS", 60))   # limit for one cell of a file that is graded

@dataclass
class Wrong:
    "An answer that many people give, and that is wrong"
    name: str          # a few words, told to the student
    why: str           # what goes wrong and where to look, without the solution
    answer: Callable   # a real implementation; a test holds that the check refuses it

@dataclass
class Exercise:
    "What is asked, how it is checked, and which mistakes are known"
    title: str
    points: int
    check: Callable                                # check(answer) raises an AssertionError that says what is wrong
    right: Callable                                # a right answer
    probes: list = field(default_factory=list)     # tuples of arguments on which the known mistakes differ from what is right
    wrong: list = field(default_factory=list)      # known mistakes
    behave: Callable = None                        # behave(answer, *probe): what is compared; default: what the answer returns
    seconds: float = 20                            # time limit for the check

@dataclass
class Result:
    name: str
    status: str        # solved, open, wrong, error, timeout, missing
    points: int
    message: str = ""

class NotYet(AssertionError):
    "An exercise that is not solved; notebooks show its text without a traceback"
    def _render_traceback_(self): return str(self).splitlines()

class TookTooLong(BaseException):
    "Not an Exception, so that an answer's own `except Exception` can't swallow it"

@contextmanager
def time_limit(seconds:float):
    "Raise TookTooLong after so many seconds, where the system can do that"
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    def ring(*_): raise TookTooLong()
    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    started = time.monotonic()
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(.01, left-(time.monotonic()-started)) if left else 0)   # an outer limit goes on
        signal.signal(signal.SIGALRM, before)

def load_exercises(stem:str)->dict:
    "EXERCISES of a chapter's grader, loaded by its path"
    for p in (str(HERE), str(HERE.parent)):
        if p not in sys.path: sys.path.insert(0, p)     # graders say `from grade import Exercise, Wrong` and use the library
    path = HERE/"graders"/f"{stem}.py"
    if not path.exists(): raise FileNotFoundError(f"no grader {path.name}; there are: {', '.join(stems())}")
    spec = importlib.util.spec_from_file_location(f"grader_{stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EXERCISES

def stems()->list[str]:
    "Chapters that have exercises"
    return sorted(p.stem for p in (HERE/"graders").glob("[0-9][0-9]_*.py"))

def behaviour(ex:Exercise, answer:Callable, probe:tuple):
    "What an answer does with one probe: its result, or the kind of error"
    try:
        with time_limit(3): return (ex.behave or (lambda f, *a: f(*a)))(answer, *copy.deepcopy(probe))
    except TookTooLong: return "took too long"
    except Exception as e: return f"raised {type(e).__name__}"

def same(a, b)->bool:
    "Equal, whatever kind of thing it is"
    try: return bool(a == b)
    except Exception: pass
    try:
        import torch
        return torch.allclose(a, b, equal_nan=True)
    except Exception: return False

def diagnose(ex:Exercise, answer:Callable)->Wrong|None:
    "The known mistake that an answer behaves like, on all probes that tell that mistake from what is right"
    does, right = [behaviour(ex, answer, p) for p in ex.probes], [behaviour(ex, ex.right, p) for p in ex.probes]
    for w in ex.wrong:
        errs = [behaviour(ex, w.answer, p) for p in ex.probes]
        if all(map(same, does, errs)) and not all(map(same, errs, right)): return w
    return None

def judge(name:str, ex:Exercise, answer:Callable)->Result:
    "Check one answer and say what is wrong with it"
    if not callable(answer): return Result(name, "error", 0, f"the answer is a {type(answer).__name__}, not a function")
    try:
        with time_limit(ex.seconds): ex.check(answer)
    except NotImplementedError: return Result(name, "open", 0, "not solved yet: write your answer in place of `raise NotImplementedError`. The hints under the task open one by one.")
    except TookTooLong: return Result(name, "timeout", 0, f"still running after {ex.seconds:g} s: a loop that never ends, or one that does far too much work?")
    except AssertionError as e: status, told = "wrong", str(e) or "a check failed"
    except (Exception, SystemExit) as e: status, told = "error", f"your code raised {type(e).__name__}: {e}"
    else: return Result(name, "solved", ex.points)
    known = diagnose(ex, answer)
    if known: told += f"\nIt behaves like a known wrong answer, \"{known.name}\": {known.why}"
    return Result(name, status, 0, told)

RECORD = None     # where a file that is graded keeps its results; None in a notebook

def grade(stem:str, name:str, answer:Callable)->None:
    "Grade one answer: prints the points, or raises NotYet with what is wrong"
    exercises = load_exercises(stem)
    if name not in exercises: raise NotYet(f"{stem} has no exercise {name!r}; it has: {', '.join(exercises)}")
    ex = exercises[name]
    result = judge(name, ex, answer)
    if RECORD is not None: RECORD(result)
    if result.status != "solved": raise NotYet(f"{ex.title}: {result.message}")
    print(f"{ex.title}: solved, {ex.points} of {ex.points} points")

# ---- whole files ----

GRADE_CALL = re.compile(r"""^grade\(\s*["'](\w+)["']\s*,\s*["'](\w+)["']""", re.M)

def code_cells(path:Path)->list[str]:
    "Sources of a notebook's code cells, without magics"
    cells = ["".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    return ["\n".join(l for l in c.splitlines() if not re.match(r"\s*[%!]", l)) for c in cells]

def run_cells(path:Path, out:Path, skip:set[int])->None:
    "Run a notebook's cells one after the other, whatever happens; results go to `out`, a line each"
    global RECORD
    def tell(**line):
        with out.open("a") as f: f.write(json.dumps(line)+"\n")
    graded, first_error, scope = set(), "", {"__name__": "__main__"}
    def record(r): graded.add(r.name); tell(**vars(r))
    RECORD = record
    for i,source in enumerate(code_cells(path)):
        if i in skip: continue
        tell(start=i)
        try:
            with time_limit(CELL_SECONDS): exec(compile(source, f"cell {i+1}", "exec"), scope)
            continue
        except NotYet: continue                                         # already on record
        except TookTooLong: told, status = f"the cell was still running after {CELL_SECONDS} s", "timeout"
        except BaseException as e: told, status = f"{type(e).__name__}: {e}", "error"
        for _,name in GRADE_CALL.findall(source):
            if name not in graded: tell(**vars(Result(name, status, 0, told+first_error)))
        first_error = first_error or f" (an earlier cell, number {i+1}, failed with {told})"
    tell(done=True)

def watch(run:subprocess.Popen, out:Path)->None:
    "Wait until a process ends, or end it when its results stop growing: alarms can't stop everything"
    size, since = 0, time.monotonic()
    try:
        while run.poll() is None:
            time.sleep(.05)
            if out.stat().st_size != size: size, since = out.stat().st_size, time.monotonic()
            elif time.monotonic()-since > CELL_SECONDS+30: break
    finally:
        if run.poll() is None:                  # hung, or Ctrl-C here: it and its children live in a session of their own
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()

def grade_file(stem:str, path:Path)->list[Result]:
    "Run a notebook in processes of its own until each cell has had its turn; one result per exercise"
    exercises, cells = load_exercises(stem), code_cells(path)
    results, skip = {}, set()
    with tempfile.TemporaryDirectory() as tmp:
        for attempt in range(len(cells)+1):
            out = Path(tmp)/f"{attempt}.jsonl"
            out.touch()
            cmd = [sys.executable, str(HERE/"grade.py"), "--cells", str(path.resolve()), str(out), ",".join(map(str, sorted(skip)))]
            env = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))}
            run = subprocess.Popen(cmd, cwd=HERE, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            watch(run, out)
            lines = [json.loads(l) for l in out.read_text().splitlines() if l.endswith("}")]   # the last one may be cut
            for l in lines:
                if "name" in l: results[l["name"]] = Result(**l)
            if any("done" in l for l in lines): break
            last = max((l["start"] for l in lines if "start" in l), default=None)
            if last is None: raise RuntimeError(f"{path.name} could not be run at all")
            skip.add(last)                                              # this cell ended the process: go on without it
            for _,name in GRADE_CALL.findall(cells[last]): results[name] = Result(name, "error", 0, "the cell ended the whole process, or hung")
    return [results.get(n) or Result(n, "missing", 0, "no grade cell was run for it") for n in exercises]

def table(stem:str, results:list[Result])->str:
    "Scores of a chapter, a line each"
    exercises, lines = load_exercises(stem), [stem]
    for r in results:
        ex = exercises[r.name]
        first, *rest = r.message.split("\n")
        told = (rest[-1] if rest else first).split("The hints")[0]
        lines.append(f"  {ex.title:<34.34} {r.points:>2} / {ex.points:<2}  {r.status}" + (f": {told.strip()[:150]}" if told else ""))
    lines.append(f"  {'together':<34} {sum(r.points for r in results):>2} / {sum(e.points for e in exercises.values())}")
    return "\n".join(lines)

def main(argv:list[str]|None=None)->int:
    "The command line; returns the exit status"
    p = argparse.ArgumentParser(prog="grade.py", description="Scores of the exercises, each run on its own.")
    p.add_argument("chapter", nargs="?", help="its number, such as 01; without it every chapter")
    p.add_argument("--solutions", action="store_true", help="grade the solutions instead; status 1 unless all are right")
    p.add_argument("--file", type=Path, help="grade this copy of the exercise notebook")
    p.add_argument("--cells", nargs=3, metavar=("FILE", "OUT", "SKIP"), help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.cells: return run_cells(Path(a.cells[0]), Path(a.cells[1]), {int(i) for i in a.cells[2].split(",") if i}) or 0
    there = stems()
    wanted = [s for s in there if a.chapter is None or s == a.chapter or (a.chapter.isdigit() and int(s[:2]) == int(a.chapter))]
    def fail(why):
        print(f"error: {why}", file=sys.stderr)
        return 2
    if not wanted: return fail(f"no exercises for chapter {a.chapter}; there are: {', '.join(there)}")
    if a.file and (len(wanted) != 1 or a.solutions): return fail("--file wants one chapter, and no --solutions")
    points = total = 0
    for stem in wanted:
        path = a.file or HERE/("solutions" if a.solutions else "")/f"{stem}.ipynb"
        try: results = grade_file(stem, path)
        except FileNotFoundError: return fail(f"no notebook {path}")
        except (ValueError, KeyError, TypeError): return fail(f"{path} is not a notebook")
        print(table(stem, results))
        points, total = points+sum(r.points for r in results), total+sum(e.points for e in load_exercises(stem).values())
    if len(wanted) > 1: print(f"all chapters: {points} of {total} points")
    return int(a.solutions and points < total)

if __name__ == "__main__":
    from grade import main      # under its own name, so that notebooks and graders meet the same module
    sys.exit(main())
