"""Grades exercises: in a notebook's grade cell, and on the command line for whole files.

    python exercises/grade.py                     every chapter, your answers
    python exercises/grade.py 01                  one chapter
    python exercises/grade.py 01 --solutions      the solutions instead (status 1 unless all are right)
    python exercises/grade.py 01 --file PATH      somebody's copy of the exercise notebook
    python exercises/grade.py --folder DIR        everybody's copies: one row each

A grade cell calls `grade("01_bpe", "overlap", my_function)`. What is right is decided by
`exercises/graders/01_bpe.py`, which holds a dict EXERCISES = {name: Exercise(...)}.

How far the scores of files can be trusted. Three processes take part: this one, which starts a judge for
each file; the judge, which holds the grader and never runs a student's code; and the student's
(student.py), which runs the notebook and holds no grader. Values pass between the last two as data
(wire.py). Whatever the notebook does to its own process (exit, patches, objects that equal everything,
forged messages) costs its own points and nothing else. With all levels of isolation on (see chapter 17) it
reads no grader, solution or other file of yours, changes no file, reaches no network and no socket of
yours, meets hard limits of time, of disk and of memory (each process by the kernel; all of them together
are looked at every quarter of a second), and leaves no process behind. Pools of processes need semaphores
and do not run. With fewer levels (the first line of output says which are off) it has your rights as far as
they go, and nothing can keep it from reading the grader: then grade only files that you would run yourself.
Helpers that a grader runs beside an answer (@in_child: counting
writes, watching memory) are advisory: code that takes the trouble to find and replace them can deceive
them, though not the comparison of values. In a cell, the check runs in the notebook's own kernel: it serves
the student, and a score there is worth what the student's word is worth. The solutions are public: no judge
sees who wrote them.
"""
import argparse, ast, builtins, copy, functools, importlib.util, inspect, json, linecache, os, pickle, re
import select, signal, subprocess, sys, tempfile, textwrap, threading, time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
import wire
from wire import Broken, NotData

def setting(name:str, usual:float)->float:
    "A number that the environment may set"
    return float(os.environ.get(name, usual))

CELL_SECONDS = setting("NANOCHAT_CELL_SECONDS", 60)              # limit for one cell of a file that is graded
CHECK_SECONDS = setting("NANOCHAT_CHECK_SECONDS", float("inf"))  # for a check, where an exercise allows more
FILE_SECONDS = setting("NANOCHAT_FILE_SECONDS", 300)             # for a whole file
START_SECONDS = 60                                               # for the student's process to start
MOST_BYTES, MOST_FILES = 256 << 20, 5000                         # of a notebook's private folder
MOST_NOTEBOOK = 8 << 20                                          # bytes: reading it takes 25 times as many
LEVELS = ("process", "limits", "namespace", "mounts", "files", "syscalls")   # of isolation, as in chapter 17

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
    check: Callable            # check(answer) raises an AssertionError that says what is wrong
    right: Callable            # a right answer
    probes: list = field(default_factory=list)   # tuples of arguments on which known mistakes differ from it
    wrong: list = field(default_factory=list)    # known mistakes
    behave: Callable = None    # behave(answer, *probe): what is compared; default: what the answer returns
    seconds: float = 20        # time limit for the check
    does: list = field(default=None, repr=False)   # what the right and known wrong answers do, once asked

@dataclass
class Result:
    "What came of one exercise"
    name: str
    status: str        # solved, open, wrong, error, timeout, missing
    points: int
    message: str = ""

class NotYet(AssertionError):
    "An exercise that is not solved; notebooks show its text without a traceback"
    def _render_traceback_(self): return str(self).splitlines()

class TookTooLong(BaseException):
    "Not an Exception, so that an answer's own `except Exception` can't swallow it"

class Gone(Exception):
    "The student's process is gone"

@contextmanager
def time_limit(seconds:float):
    "Raise TookTooLong after so many seconds, where the system can do that"
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    def ring(*_): raise TookTooLong()
    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 1)     # and again: a callback can lose an alarm
    started = time.monotonic()
    try:
        yield
    finally:
        outer = max(.01, left-(time.monotonic()-started)) if left else 0     # an outer limit goes on
        signal.setitimer(signal.ITIMER_REAL, outer, 1 if left else 0)
        signal.signal(signal.SIGALRM, before)

def load_exercises(stem:str)->dict:
    "EXERCISES of a chapter's grader, loaded by its path"
    for p in (str(HERE), str(HERE.parent)):
        if p not in sys.path:
            sys.path.insert(0, p)     # graders use the library, and `from grade import ...`
    path = HERE/"graders"/f"{stem}.py"
    if not path.exists():
        raise FileNotFoundError(f"no grader {path.name}; there are: {', '.join(stems())}")
    return loaded(path, path.stat().st_mtime_ns)

@functools.lru_cache(64)
def loaded(path:Path, changed:int)->dict:
    "EXERCISES of a file as it was when it was last changed"
    spec = importlib.util.spec_from_file_location(f"grader_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EXERCISES

def stems()->list[str]:
    "Chapters that have exercises"
    return sorted(p.stem for p in (HERE/"graders").glob("[0-9A][0-9]_*.py"))

# ---- what people read ----

def readable(value, most:int=300)->str:
    "A value that can be typed in again, with large numbers as people write them: 11.2e9, 1_000_000"
    if type(value) is float and 1e5 <= abs(value) < 1e300:
        exponent = next((e for e in (12, 9, 6, 3) if abs(value) >= 10**e), 0)
        short = f"{value/10**exponent:.15g}e{exponent}"
        return short if float(short) == value else repr(value)
    if type(value) is int and abs(value) >= 100_000:
        return f"{value:_}"
    brackets = {list: "[]", tuple: "()", set: "{}", dict: "{}"}.get(type(value))
    try:
        if not brackets or not value:
            return shorten(repr(value).replace("\n", " "), most)
        if type(value) is dict:
            items = [f"{readable(k)}: {readable(v)}" for k, v in list(value.items())[:12]]
        else:
            items = [readable(v) for v in list(value)[:12]]
        if len(value) > 12:
            items.append(f"… {len(value)} in all")
        comma = "," if type(value) is tuple and len(value) == 1 else ""
        return shorten(brackets[0]+", ".join(items)+comma+brackets[1], most)
    except BaseException:
        return f"<{type(value).__name__}>"

def readable_call(function:Callable, args:tuple)->str:
    "`name = value` for each argument, by the names of a function that takes them"
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    if len(names) < len(args):
        return ", ".join(map(readable, args))
    return ", ".join(f"{n} = {readable(a)}" for n, a in zip(names, args))

def shorten(text:str, most:int)->str:
    "A text cut at the end of a word"
    if len(text) <= most:
        return text
    return re.sub(r"\s*\S*$", "", text[:most+1])[:most] + " …" if " " in text[:most] else text[:most]+"…"

# Control characters, marks that turn the direction of writing or have no width, halves of characters
UNSEEN = ("[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a-\u202e"
          "\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]")

def clean(text:str, most:int=1500)->str:
    "A text without what moves a terminal's cursor or turns its writing round"
    text = re.sub(r"[^\S\n ]+", " ", str(text))
    return shorten(re.sub(UNSEEN, "�", text), most)

# ---- the judge ----

def in_child(helper:Callable)->Callable:
    "For a function helper(answer, *args) of a grader that must run where the answer is; it gives back data"
    @functools.wraps(helper)
    def run(answer, *args, **named):
        bound = inspect.signature(helper).bind(answer, *args, **named)
        bound.apply_defaults()
        args = bound.args[1:]
        if isinstance(answer, Answer):
            return answer.run(helper, args)
        try:
            return wire.data(helper(answer, *args))
        except NotData as e:
            raise AssertionError(str(e)) from None
    return run

def definitions(path:Path)->tuple[list, dict]:
    "(imports, {name: statement}) of a grader; what it imports from its neighbours counts as its own"
    imports, named, shared = [], {}, {}
    for node in ast.parse(path.read_text("utf-8")).body:
        neighbour = isinstance(node, ast.ImportFrom) and node.module.startswith("graders.")
        if neighbour:
            more, theirs = definitions(path.parent/f"{node.module[8:]}.py")
            imports += more
            named.update(theirs)
            shared.update(theirs)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if getattr(node, "module", "") != "grade":
                imports.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named[node.name] = node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                named.update(dict.fromkeys(names_in(target, ast.Store), node))
    for name, node in shared.items():           # in the student's process both would be one
        if named[name] is not node:
            raise NameError(f"{path.name} and a neighbour both define {name}")
    return imports, named

def names_in(node:ast.AST, use:type)->set[str]:
    "Names that are read (ast.Load) or given a value (ast.Store) in a statement"
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, use)}

@functools.cache
def helpers_source(path:str)->str:
    "Source of all @in_child functions of a grader and of what they use, without anything else of it"
    imports, named = definitions(Path(path))
    wanted = []
    for name, node in named.items():
        for mark in list(getattr(node, "decorator_list", [])):
            if not isinstance(mark, ast.Name) or mark.id != "in_child":
                continue
            node.decorator_list.remove(mark)
            wanted.append(name)
    for name in wanted:                                     # it grows while we go through it
        node = named[name]
        own = names_in(node, ast.Store) | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        used = names_in(node, ast.Load) - (own if isinstance(node, ast.FunctionDef) else set())
        wanted += sorted((used & set(named)) - set(wanted))
    nodes = {id(named[name]) for name in wanted}
    body = list({id(node): node for node in named.values() if id(node) in nodes}.values())
    return ast.unparse(ast.Module([*imports, *body], []))

class Answer:
    "A student's answer as checks see it: call it, and what comes back is data"
    right = None                        # a right answer, for the names of arguments
    def __call__(self, *args): raise NotImplementedError
    def run(self, helper, args): raise NotImplementedError

class Local(Answer):
    "An answer in this very process, as in a notebook"
    def __init__(self, function): self.function = function

    def __call__(self, *args):
        return self.around(self.function, args, readable_call(self.right or self.function, args))

    def run(self, helper, args):
        return self.around(functools.partial(helper, self.function), args, ", ".join(map(readable, args)))

    def around(self, function, args, case):
        "What comes back, as data; whatever the student's code raises becomes an error that a check can meet"
        try:
            return wire.data(function(*args))
        except (TookTooLong, NotData, NotImplementedError):
            raise
        except BaseException as e:
            raise raised(type(e).__name__, str(e), e.args, self.place(e), case) from e

    def place(self, e)->str:
        "The last line of the answer's own file that led to an error"
        code, at, found = getattr(inspect.unwrap(self.function), "__code__", None), e.__traceback__, ""
        while code and at is not None:
            if at.tb_frame.f_code.co_filename == code.co_filename:
                text = linecache.getline(code.co_filename, at.tb_lineno).strip()
                found = f"in line {at.tb_lineno} of its cell" + (f", `{text}`" if text else "")
            at = at.tb_next
        return found

def raised(name:str, text:str, args:tuple, place:str, case:str)->Exception:
    "An error of the student's code, made anew: a built-in kind where a check may want to catch it"
    kind = getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    if not known or issubclass(kind, (StopIteration, StopAsyncIteration, Warning)):     # would end a loop
        kind = type(name if name.isidentifier() else "Exception", (Exception,), {})
    try:
        e = kind(*args)
    except Exception:
        e = type(name, (Exception,), {})(text)
    e.place = place
    what = f"your code raised {name}" + (f": {text}" if text else "")
    e.told = "\n".join(filter(None, [what, place, f"with {case}" if case else ""]))
    return e

def behaviour(ex:Exercise, answer:Callable, probe:tuple):
    "What an answer does with one probe: its result, or the kind of error"
    try:
        with time_limit(max(3, ex.seconds/4)):          # where a check may take long, a probe may, too
            return (ex.behave or (lambda f, *a: f(*a)))(answer, *copy.deepcopy(probe))
    except TookTooLong:
        return "took too long"
    except Exception as e:
        return f"raised {type(e).__name__}"

def same(a, b)->bool:
    "Equal, whatever kind of thing it is"
    try:
        return bool(a == b)
    except Exception:
        pass
    try:
        import torch
        return torch.allclose(a, b, equal_nan=True)
    except Exception:
        return False

def behaviours(ex:Exercise, answer:Callable)->list:
    "What an answer does with each probe"
    return [behaviour(ex, answer, p) for p in ex.probes]

def diagnose(ex:Exercise, answer:Callable)->Wrong|None:
    "The known mistake that an answer behaves like, on all probes that tell that mistake from what is right"
    if ex.does is None:
        ex.does = [behaviours(ex, f) for f in (ex.right, *(w.answer for w in ex.wrong))]
    does, (right, *mistakes) = behaviours(ex, answer), ex.does
    for w, errs in zip(ex.wrong, mistakes):
        if all(map(same, does, errs)) and not all(map(same, errs, right)):
            return w
    return None

NOT_SOLVED = ("not solved yet: write your answer in place of `raise NotImplementedError`. "
              "The hints under the task open one by one.")

def no_function(name:str, kind:str)->Result:
    "What comes of an answer that can't be called"
    return Result(name, "error", 0, f"the answer is a {kind}, not a function")

def judge(name:str, ex:Exercise, answer:Callable)->Result:
    "Check one answer and say what is wrong with it"
    if not callable(answer):
        return no_function(name, type(answer).__name__)
    if not isinstance(answer, Answer):
        answer = Local(answer)
    answer.right = ex.right
    seconds = min(ex.seconds, CHECK_SECONDS)
    try:
        with time_limit(seconds):
            ex.check(answer)
    except NotImplementedError:
        return Result(name, "open", 0, NOT_SOLVED)
    except TookTooLong:
        told = f"still running after {seconds:g} s: a loop that never ends, or far too much work?"
        return Result(name, "timeout", 0, told)
    except NotData as e:
        return Result(name, "wrong", 0, clean(e))
    except (Gone, Broken) as e:
        return Result(name, "error", 0, clean(e))
    except AssertionError as e:
        status, told = "wrong", str(e) or "a check failed"
    except Exception as e:
        status, told = "error", getattr(e, "told", None)
        if told is None:
            status, told = "wrong", f"the check can't use what your code gave back: {type(e).__name__}: {e}"
    else:
        return Result(name, "solved", ex.points)
    known = diagnose(ex, answer)
    told = clean(told)
    if known:
        told += f"\nIt behaves like a known wrong answer, \"{known.name}\": {known.why}"
    return Result(name, status, 0, told)

def grade(stem:str, name:str, answer:Callable)->None:
    "Grade one answer in a notebook: prints the points, or raises NotYet with what is wrong"
    exercises = load_exercises(stem)
    if name not in exercises:
        raise NotYet(f"{stem} has no exercise {name!r}; it has: {', '.join(exercises)}")
    ex = exercises[name]
    result = judge(name, ex, answer)
    if result.status != "solved":
        raise NotYet(f"{ex.title}: {result.message}")
    print(f"{ex.title}: solved, {ex.points} of {ex.points} points")

# ---- the student's process, seen from the judge ----

class Student:
    "The process in which a notebook runs, and the two pipes to it"
    def __init__(self, cells:list, until:float):
        self.until, self.buffer, self.looked = until, b"", 0.
        self.known = False              # has it the grader's helpers?
        self.lost = self.over = False   # can't be asked any more; has been ended
        self.folder = Path(tempfile.mkdtemp(prefix="notebook-")).resolve()
        alive, self.lifeline = os.pipe()
        self.results, answers = os.pipe()
        command = [sys.executable, "-I", "-B", "-X", "utf8", str(HERE/"student.py"), str(alive), str(answers)]
        quiet = dict(stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(command, cwd=self.folder, env=self.environment(),
                                        pass_fds=(alive, answers), start_new_session=True, **quiet)
        for fd in (alive, answers):
            os.close(fd)
        levels = os.environ.get("NANOCHAT_GRADE_LEVELS", " ".join(LEVELS)).split()     # fewer only in tests
        packages = [p for p in sys.path if p and not HERE.is_relative_to(os.path.realpath(p))]
        library = os.path.realpath(HERE.parent/"nanochat")
        self.order(dict(cells=cells, folder=str(self.folder), library=library, path=packages,
                        seconds=int(FILE_SECONDS), levels=levels))

    def environment(self)->dict:
        "Nothing of ours, only what programs need"
        home = str(self.folder)
        folders = dict(HOME=home, TMPDIR=home, IPYTHONDIR=home+"/.ipython", MPLCONFIGDIR=home+"/.matplotlib",
                       NANOCHAT_BASE_DIR=home+"/store", PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
        return dict(folders, LANG="C.UTF-8", TERM="dumb", MPLBACKEND="Agg", OMP_NUM_THREADS="1",
                    CUDA_VISIBLE_DEVICES="", PYTHONDONTWRITEBYTECODE="1")

    def order(self, what)->None:
        "Tell the student's process what to do; a pickle, since this side is trusted"
        if self.lost:
            raise Gone("your code ended its whole process")
        try:
            wire.send(self.process.stdin.fileno(), pickle.dumps(what))
        except OSError:
            raise Gone("your code ended its whole process") from None

    def hear(self, until:float=float("inf"))->dict:
        "The next message; TookTooLong when it does not come in time"
        if self.lost:
            raise Gone("your code ended its whole process")
        until = min(until, self.until)
        while len(self.buffer) < 4 or len(self.buffer) < 4+int.from_bytes(self.buffer[:4], "big"):
            if len(self.buffer) >= 4 and int.from_bytes(self.buffer[:4], "big") > wire.MOST_BYTES:
                raise Broken("what your code gave back is too long, or no data")
            if time.monotonic() > until:
                raise TookTooLong
            self.look_at_folder()
            if not select.select([self.results], [], [], min(.5, max(0, until-time.monotonic())))[0]:
                continue
            more = os.read(self.results, 1 << 20)
            if not more:
                raise Gone(self.ending())
            self.buffer += more
        size = int.from_bytes(self.buffer[:4], "big")
        raw, self.buffer = self.buffer[4:4+size], self.buffer[4+size:]
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            message = None
        if type(message) is not dict:
            raise Broken("what came from your code's process is no message")
        return message

    def ending(self)->str:
        "Why nothing more will come"
        with suppress(subprocess.TimeoutExpired):
            if self.process.wait(5) == wire.TOO_MUCH_MEMORY:
                most = wire.MOST_MEMORY >> 20
                return f"your code took more than {most} MB of memory, with all that it started"
        return "your code ended its whole process"

    def look_at_folder(self)->None:
        "Twice a second: is the private folder still small?"
        if time.monotonic()-self.looked < .5:
            return
        from nanochat.tools import folder_use
        entries, size = folder_use(str(self.folder), MOST_FILES)
        if entries >= MOST_FILES or size > MOST_BYTES:
            raise Gone("your code filled its folder")
        self.looked = time.monotonic()

    def exchange(self, what)->dict:
        "One order and its reply; after one that came to nothing the process can't be asked any more"
        try:
            self.order(what)
            return self.hear()
        except BaseException:
            self.lost = True              # it may still be at work on this order
            raise

    def ask(self, args:tuple, case:str, *op)->object:
        "Have the answer called, and bring back what comes of it, also in the arguments"
        torch = sys.modules.get("torch")
        try:
            reply = self.exchange((*op, args, torch is None or torch.is_grad_enabled()))
            error, after = reply.get("error"), reply.get("after", [])
            if error is None:
                value = decoded(reply.get("value"))
                for given, now in zip(args, after):
                    if now is not None:
                        put_back(given, decoded(now))
                return value
        except BaseException:
            self.lost = True              # what it gave back can't be used, and may be half put back
            raise
        raise from_child(error, case)

    def end(self)->None:
        "End the notebook and all that it started, and remove its folder"
        if self.over:
            return
        self.lost = self.over = True
        for fd in (self.lifeline, self.results):
            os.close(fd)      # the keeper sees that, and ends them all
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

def decoded(tagged):
    "A value from the student's process"
    try:
        return wire.decode(tagged)
    except TookTooLong:
        raise
    except BaseException:
        raise Broken("what your code gave back is no data") from None

def put_back(given, now)->None:
    "Change an argument as the student's code changed its copy"
    if type(given) is list and type(now) is list:
        given[:] = now
    elif type(given) in (dict, set) and type(now) is type(given):
        given.clear()
        given.update(now)

def from_child(error:dict, case:str)->Exception:
    "The error that a student's process reports"
    error = checked(error)
    if error["data"]:
        return NotData(error["text"])
    if error["type"] == "NotImplementedError":
        return NotImplementedError()
    try:
        args = tuple(wire.decode(error.get("args")))
    except Exception:
        args = (error["text"],)
    return raised(error["type"], error["text"], args, place_of(error), case)

def checked(error)->dict:
    "A report of an error in which every field has its type"
    if type(error) is not dict:
        raise Broken("what came from your code's process is no message")
    kinds = dict(type=str, text=str, line=str, missing=str, cell=int, row=int, data=bool)
    out = dict(type="Exception", text="", line="", missing=None, cell=None, row=None, data=False)
    out["args"] = error.get("args")
    out.update({k: error[k] for k, kind in kinds.items() if type(error.get(k)) is kind})
    return {k: clean(v, 400) if type(v) is str else v for k, v in out.items()}

def place_of(error:dict)->str:
    "Where in the notebook an error arose"
    return f"in cell {error['cell']}, line {error['row']}: `{error['line']}`" if error["cell"] else ""

class Remote(Answer):
    "An answer in the student's process"
    def __init__(self, student, source): self.student, self.source = student, source
    def __call__(self, *args): return self.student.ask(args, readable_call(self.right, args), "call")

    def run(self, helper, args):
        if not self.student.known:
            self.student.exchange(("source", helpers_source(self.source)))
            self.student.known = True
        return self.student.ask(args, ", ".join(map(readable, args)), "helper", helper.__name__)

@functools.cache
def isolated()->list[str]:
    "Levels of isolation that this machine grants, found by trying"
    student = Student([], time.monotonic()+START_SECONDS)
    try:
        return student.hear()["levels"]
    finally:
        student.end()

# ---- one file, in the judge's process ----

GRADE_CALL = re.compile(r"""^grade\(\s*["'](\w+)["']\s*,\s*["'](\w+)["']""", re.M)

def code_cells(path:Path)->list[tuple]:
    "(place among all cells, source) of a notebook's code cells"
    # -sig: some editors begin a file with a mark of its encoding
    cells = json.loads(path.read_text("utf-8-sig"))["cells"]
    return [(i+1, "".join(c["source"])) for i, c in enumerate(cells) if c["cell_type"] == "code"]

def first_line(source:str)->str:
    "How a cell begins, to find it by"
    lines = [l.strip() for l in source.splitlines() if l.strip() and not l.strip().startswith("#")]
    return shorten(clean(lines[0] if lines else ""), 50)

def defines(source:str, name:str)->bool:
    "Does a cell look as if it gives this name a meaning? By its text: it may not even compile"
    n = re.escape(name)
    ways = [rf"^\s*(async\s+)?(def|class)\s+{n}\b", rf"^[^=#\n(]*\b{n}\b[^=\n(]*=(?!=)",
            rf"^\s*(from\b.*)?import\b.*\b{n}\b", rf"\bfor\s+{n}\b"]
    return any(re.search(way, source, re.M) for way in ways)

class Book:
    "One student's notebook before the judge"
    def __init__(self, stem:str, path:Path, results:dict, tell:Callable):
        self.stem, self.exercises, self.results, self.tell = stem, load_exercises(stem), dict(results), tell
        self.given = set(results)   # decided by an earlier judge
        self.cells, self.until = code_cells(path), time.monotonic()+FILE_SECONDS
        self.ran = set()            # cells that were begun
        self.failed = {}            # cell -> its error
        self.ended = {}             # cell -> how it ended the process
        self.suspects = set()       # exercises during whose check the process ended
        self.verdicts = {}          # (cell, exercise) -> Result: a second run is not judged again

    def judge(self)->None:
        "Run the notebook, again without the cell that ended it; after two such cells each exercise by itself"
        while len(self.ended) < 2:
            if self.attempt([c for c in self.cells if c[0] not in self.ended]):
                break
        for name in self.exercises:
            if len(self.ended) > 1 or name in self.suspects:
                if name not in self.results:
                    self.attempt(self.alone(name), name)
        self.explain()

    def alone(self, name:str)->list:
        "The cells without the answers and grade cells of other exercises, which may be what ended it"
        others = set()
        for (before, _), (number, source) in zip([(0, ""), *self.cells], self.cells):
            if any(n != name for _, n in GRADE_CALL.findall(source)):
                others |= {before, number}
        # its own two cells stay even where the process ended in one: another cell's thread may have ended it
        mine = set()
        for (before, _), (number, source) in zip([(0, ""), *self.cells], self.cells):
            if any(n == name for _, n in GRADE_CALL.findall(source)):
                mine |= {before, number}
        return [c for c in self.cells if c[0] in mine or c[0] not in self.ended and c[0] not in others]

    def attempt(self, cells:list, alone:str|None=None)->bool:
        "Run cells in a new process; False if one of them ended it"
        if time.monotonic() > self.until:
            return True
        student, at, how, known = Student(cells, self.until), None, None, len(self.verdicts)
        try:
            levels = student.hear(time.monotonic()+START_SECONDS).get("levels", [])    # before any cell runs
            self.tell(levels=[l for l in LEVELS if l in levels])
            while True:
                message = student.hear(time.monotonic()+CELL_SECONDS)
                if message.get("op") == "done":
                    return True
                op = message.get("op")
                if op == "cell" and message.get("cell") in dict(cells):
                    self.ran.add(at := message["cell"])
                elif op == "failed":
                    self.failed[at] = checked(message.get("error"))
                elif op == "grade":
                    self.asked(student, at, message, alone)
                else:
                    raise Broken("what came from your code's process is no message")
        except TookTooLong:
            how = f"was still running after {CELL_SECONDS:g} s"
            if time.monotonic() >= self.until:
                how = f"was running when a file's {FILE_SECONDS:g} s were over"
        except Gone as e:
            how = str(e).replace("your code ", "")
        except (Broken, TypeError):
            how = "broke the channel of its results"
        finally:
            student.end()
        if at is None:
            raise RuntimeError("no cell could be run")
        judged = [cell for cell, _ in list(self.verdicts)[known:]]
        if at not in judged:
            self.ended[at] = how               # else it had its verdict, and may run again
        return False

    def asked(self, student:Student, at:int, message:dict, alone:str|None)->None:
        "A grade cell of this chapter was run: judge the answer that waits in the student's process"
        name = message.get("name")
        if message.get("stem") != self.stem or name not in self.exercises:
            return student.order(("verdict", "unknown"))
        if name in self.given:
            return student.order(("verdict", self.results[name].status))
        if (at, name) not in self.verdicts:
            ex = self.exercises[name]
            self.tell(asking=name, seconds=ex.seconds)
            if message.get("ok") is not True:
                result = no_function(name, clean(message.get("kind"), 60))
            else:
                result = judge(name, ex, Remote(student, inspect.getsourcefile(inspect.unwrap(ex.check))))
            if student.lost and result.status in ("error", "wrong") and name != alone:
                self.suspects.add(name)         # it may be another's code: this one is asked again, alone
                raise Gone(result.message)
            self.verdicts[at, name] = self.results[name] = result
            self.tell(result=asdict(result))
        student.order(("verdict", self.verdicts[at, name].status))

    def explain(self)->None:
        "Say of exercises without a result what became of their grade cell"
        for number, source in self.cells:
            for stem, name in GRADE_CALL.findall(source):
                if stem != self.stem or name in self.results or name not in self.exercises:
                    continue
                status, told = self.reason(number, source)
                self.results[name] = Result(name, status, 0, told)
                self.tell(result=asdict(self.results[name]))

    def reason(self, number:int, source:str)->tuple[str, str]:
        "(status, why) a grade cell came to nothing: by itself, or by a cell that should have defined a name"
        error = self.failed.get(number)
        if number in self.ended or not error:
            return self.ending(number)
        missing = error["missing"]
        if missing is None:
            return "error", self.failure(error)
        broken = {*self.ended, *self.failed}-{number}
        makers = [n for n, s in self.cells if n in broken and defines(s, missing)]
        if not makers:
            return "error", f"`{missing}` is not defined: no cell that ran defines it"
        maker = makers[-1]
        if maker in self.ended:
            status, told = self.ending(maker)
        else:
            status, told = "error", self.failure(self.failed[maker])
        return status, f"`{missing}` is not defined, because the cell that should define it failed: {told}"

    def ending(self, number:int)->tuple[str, str]:
        "(status, why) for a cell that ended the process, or that never came to its turn"
        how = self.ended.get(number, "was not reached: the time for this file was over")
        if number in self.ran and number not in self.ended:
            how = "ran, but no answer reached the judge"
        told = f"cell {number} (`{first_line(dict(self.cells)[number])}`) {how}"
        return "timeout" if "running" in how else "error", told

    def failure(self, error:dict)->str:
        "An error of a cell in words"
        place = place_of(error)
        return f"{error['type']}: {error['text']}" + (f"\n{place}" if place else "")

def judge_process(stem:str, path:Path)->None:
    "The judge of one file: results go to standard output, a line each"
    with suppress(ImportError, ValueError, OSError):
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))     # data can be large, too
    out = os.dup(1)
    os.dup2(2, 1)                          # whatever else is printed here goes elsewhere
    decided = {n: Result(**r) for n, r in json.loads(sys.stdin.readline()).items()}
    threading.Thread(target=end_with, args=(sys.stdin,), daemon=True).start()
    book = Book(stem, path, decided, lambda **line: os.write(out, json.dumps(line).encode()+b"\n"))
    try:
        book.judge()
    except Exception as e:
        book.tell(failed=f"{type(e).__name__}: {e}")

def end_with(pipe)->None:
    "End this process when the door is gone; the keeper of the notebook watches us in the same way"
    pipe.read()
    os._exit(1)

# ---- the door ----

@dataclass
class Graded:
    "What came of a file"
    results:list            # one Result for each exercise
    levels:set              # levels of isolation that were on

class NoNotebook(ValueError):
    "A file that can't be graded; its text says why"

def look_at(path:Path, stem:str|None=None)->list[str]:
    "Chapters that a notebook has grade cells of; NoNotebook if it is none, or not of this chapter"
    shown = clean(str(path), 200)
    try:
        if not path.exists():
            raise NoNotebook(f"no notebook {shown}")
        if path.is_dir():
            raise NoNotebook(f"{shown} is a folder: give a notebook, or --folder for all in it")
        if not path.is_file():
            raise ValueError
        if not path.stat().st_size:
            raise NoNotebook(f"{shown} is empty")
        if path.stat().st_size > MOST_NOTEBOOK:
            most = MOST_NOTEBOOK >> 20
            raise NoNotebook(f"{shown} is larger than {most} MB: clear its outputs and save it again")
        found = [s for _, source in code_cells(path) for s, _ in GRADE_CALL.findall(source)]
    except OSError as e:
        raise NoNotebook(f"{shown} can't be read: {e.strerror}") from None
    except NoNotebook:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NoNotebook(f"{shown} is not a notebook") from None
    if not found:
        raise NoNotebook(f"{shown} has no grade cells: is it an exercise notebook?")
    if stem and stem not in found:
        raise NoNotebook(f"{shown} belongs to chapter {clean(found[0], 40)}, not to {stem}")
    return list(dict.fromkeys(found))

def grade_file(stem:str, path:Path)->Graded:
    "Have a judge grade a notebook; end the judge, too, where it hangs, and go on with the next exercise"
    exercises, results, levels = load_exercises(stem), {}, None
    until, told = time.monotonic()+FILE_SECONDS+CELL_SECONDS, "no grade cell was run for it"
    while time.monotonic() < until:
        asking, over = None, True
        for line in judge_lines(stem, path, results, until):
            if line == "failed":
                told = "the judge of this notebook was ended"
            elif "failed" in line:
                told = f"the notebook could not be judged: {clean(line['failed'], 300)}"
            elif line == "hung":
                over = False
            elif "levels" in line:
                levels = set(line["levels"]) & (set(LEVELS) if levels is None else levels)
            elif "asking" in line:
                asking = line["asking"]
            elif "result" in line:
                results[line["result"]["name"]] = Result(**line["result"])
        if over:
            break
        if asking is None or asking in results:
            break
        results[asking] = Result(asking, "timeout", 0, "the check of this answer had to be ended")
    return Graded([results.get(n) or Result(n, "missing", 0, told) for n in exercises], levels or set())

def judge_lines(stem:str, path:Path, results:dict, until:float):
    "What a judge's process says, line by line, as it comes; at last `hung` where it was ended, or `failed`"
    command = [sys.executable, str(HERE/"grade.py"), "--judge", stem, str(path.resolve())]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    run = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
    decided = json.dumps({n: asdict(r) for n, r in results.items()})
    with suppress(BrokenPipeError):
        wire.write(run.stdin.fileno(), decided.encode()+b"\n")
    patience, buffer = START_SECONDS+CELL_SECONDS+30, b""
    try:
        while True:
            if not select.select([run.stdout], [], [], max(0, min(patience, until-time.monotonic())))[0]:
                yield "hung"
                return
            more = os.read(run.stdout.fileno(), 1 << 16)
            if not more:
                break
            *lines, buffer = (buffer+more).split(b"\n")
            for line in map(json.loads, lines):
                patience = line["seconds"]+15 if "asking" in line else START_SECONDS+CELL_SECONDS+30
                yield line
        if run.wait():
            yield "failed"
    finally:
        with suppress(OSError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        for pipe in (run.stdin, run.stdout):
            pipe.close()

def wrapped(text:str, indent:str)->list[str]:
    "A text in lines of at most 110 characters"
    wrapper = textwrap.TextWrapper(110, initial_indent=indent, subsequent_indent=indent)
    return [line for part in text.split("\n") for line in wrapper.wrap(part)]

def table(stem:str, results:list[Result])->str:
    "Scores of a chapter, a line each, and under it what is wrong"
    exercises, lines = load_exercises(stem), [stem]
    for r in results:
        ex = exercises[r.name]
        told = clean(r.message, 2500)
        if r.status == "open":
            told = told.split(": write your answer")[0]
        line = f"  {ex.title:<34.34} {r.points:>2} / {ex.points:<2}  {r.status}"
        short = told and len(line)+len(told) < 110 and "\n" not in told
        lines += [line+": "+told] if short else [line, *wrapped(told, " "*6)]
    points, total = sum(r.points for r in results), sum(e.points for e in exercises.values())
    lines.append(f"  {'together':<34} {points:>2} / {total}")
    return "\n".join(lines)

def folder_table(folder:Path, wanted:list[str]):
    "Rows of scores for all notebooks of a folder, as they come"
    files = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    def shown(f):
        "A row has one line, whatever its file is called"
        return clean(" ".join(str(f.relative_to(folder)).splitlines()), 80)
    width = max((len(shown(f)) for f in files), default=0)
    for f in files:
        name = f"{shown(f):<{width}}"
        try:
            found = [s for s in look_at(f) if s in wanted]
        except NoNotebook as e:
            yield f"{name}  not graded: {str(e).removeprefix(clean(str(f), 200)).strip()}", None
            continue
        for stem in found:
            graded, exercises = grade_file(stem, f), load_exercises(stem)
            def score(r):
                status = "" if r.status == "solved" else f" {r.status}"
                return f"{r.name} {r.points}/{exercises[r.name].points}{status}"
            each = "  ".join(map(score, graded.results))
            points, total = sum(r.points for r in graded.results), sum(e.points for e in exercises.values())
            yield f"{name}  {stem:<14} {points:>3} / {total}   {each}", graded.levels

def isolation_line(levels:set)->str:
    "Which levels were on, and what that means"
    off = [l for l in LEVELS if l not in levels]
    if not off:
        return f"isolation: all levels were on ({', '.join(LEVELS)})"
    reach = "can read the graders and your files" if "files" in off else "may reach further than it should"
    return (f"isolation: without {', '.join(off)} (see the top of exercises/grade.py): code {reach}; "
            "grade only what you would run yourself")

def main(argv:list[str]|None=None)->int:
    "The command line; returns the exit status"
    p = argparse.ArgumentParser(prog="grade.py", description="Scores of the exercises, each run on its own.")
    p.add_argument("chapter", nargs="?", help="its number, such as 01; without it every chapter")
    p.add_argument("--solutions", action="store_true", help="grade these; status 1 unless all are right")
    p.add_argument("--file", type=Path, help="grade this copy of the exercise notebook")
    p.add_argument("--folder", type=Path, help="grade all notebooks in this folder, whoever they belong to")
    p.add_argument("--judge", nargs=2, metavar=("STEM", "FILE"), help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.judge:
        return judge_process(a.judge[0], Path(a.judge[1])) or 0
    there = stems()
    number = a.chapter.upper().zfill(2) if a.chapter else None       # 1, 01 or a2
    wanted = [s for s in there if a.chapter in (None, s) or s[:2] == number]
    def fail(why):
        print(f"error: {why}", file=sys.stderr)
        return 2
    chapters = ", ".join(there)
    if not wanted:
        return fail(f"no exercises for chapter {clean(a.chapter, 40)}; there are: {chapters}")
    if bool(a.file)+bool(a.folder)+a.solutions > 1:
        return fail("give one of --file, --folder, --solutions")
    own = HERE/("solutions" if a.solutions else "")
    caller = Path(os.environ.get("NANOCHAT_CALLER") or os.getcwd())
    if a.folder:
        if not (caller/a.folder).is_dir():
            return fail(f"no folder {clean(str(caller/a.folder), 200)}")
        return grade_folder(caller/a.folder, wanted)
    try:
        if a.file and a.chapter is None:
            wanted = [s for s in look_at(caller/a.file) if s in there]
        paths = {s: caller/a.file if a.file else own/f"{s}.ipynb" for s in wanted}
        for stem, path in paths.items():
            look_at(path, stem)
    except NoNotebook as e:
        return fail(e)
    points = total = 0
    for stem, path in paths.items():
        graded = grade_file(stem, path)
        if not total:
            print(isolation_line(graded.levels))
        print(table(stem, graded.results), flush=True)
        points += sum(r.points for r in graded.results)
        total += sum(e.points for e in load_exercises(stem).values())
    if len(wanted) > 1:
        print(f"all chapters: {points} of {total} points")
    return int(a.solutions and points < total)

def grade_folder(folder:Path, wanted:list[str])->int:
    "A row for each notebook"
    on, rows = set(LEVELS), 0
    for row, levels in folder_table(folder, wanted):
        if levels is not None:
            on &= levels
        rows += 1
        print(row, flush=True)
    if rows:
        print(isolation_line(on))
    else:
        print(f"error: no notebooks in {clean(str(folder), 200)}", file=sys.stderr)
    return 0 if rows else 2

if __name__ == "__main__":
    from grade import main      # under its own name, so that notebooks and graders meet the same module
    sys.exit(main())
