"Notebooks that try to end, fool, read or outlive the judge: each costs its own points, and nothing else"

import json, os, signal, socket, subprocess, sys, time
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "exercises"))
import grade as grading

STEM = "01_bpe"
NAMES = list(grading.load_exercises(STEM))  # overlap, hasty, changes, streaming, language
POINTS = {n: e.points for n, e in grading.load_exercises(STEM).items()}
MARK = "4242.4242"  # `sleep` for so long: a process to look for


def solved_with(tmp_path, stem=STEM, first="", **code):
    "The solutions of a chapter, in which some answers are replaced, and a cell stands before everything else"
    nb = json.loads((ROOT / "exercises" / "solutions" / f"{stem}.ipynb").read_text("utf-8"))
    code_cells = [c for c in nb["cells"] if c["cell_type"] == "code"]
    for stub, graded in zip(code_cells, code_cells[1:]):
        for _, name in grading.GRADE_CALL.findall("".join(graded["source"])):
            if name in code:
                stub["source"] = code[name]
    if first:
        nb["cells"].insert(
            0, dict(cell_type="code", source=first, metadata={}, outputs=[], execution_count=None)
        )
    path = tmp_path / f"{stem}.ipynb"
    path.write_text(json.dumps(nb))
    return path


def graded(path, stem=STEM, seconds=10):
    "Results by name"
    before = grading.CELL_SECONDS
    os.environ["NANOCHAT_CELL_SECONDS"] = str(seconds)
    try:
        return {r.name: r for r in grading.grade_file(stem, path).results}
    finally:
        os.environ["NANOCHAT_CELL_SECONDS"] = str(before)


def scores(results):
    return {n: r.points for n, r in results.items()}


def all_but(*names, points=POINTS):
    return {n: 0 if n in names else p for n, p in points.items()}


def left_over():
    "Processes that still sleep"
    found = []
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [p] if MARK.encode() in p.read_bytes() else []
        except OSError:
            pass
    return found


ENDINGS = {
    "raises SystemExit": "def count_apart(*_): raise SystemExit(0)",
    "ends the process": "import os\ndef count_apart(*_): os._exit(0)",
    "ends the process in its cell": "import os\nos._exit(0)",
    "is killed": (
        "import os, signal\ndef count_apart(*_): os.kill(os.getpid(), signal.SIGKILL) or os._exit(0)"
    ),
    "crashes": "import ctypes\ndef count_apart(*_): ctypes.string_at(0)",
    "raises KeyboardInterrupt": "def count_apart(*_): raise KeyboardInterrupt",
    "raises GeneratorExit": "def count_apart(*_): raise GeneratorExit",
    "raises StopIteration": "def count_apart(*_): raise StopIteration",
    "raises what can't be said": (
        "class E(BaseException):\n    def __str__(self): raise SystemExit(0)\ndef count_apart(*_): raise E"
    ),
    "eats all memory": "def count_apart(*_): return [bytearray(1 << 28) for _ in range(10**6)]",
    "recurses": "def count_apart(*a): return count_apart(*a)",
}


@pytest.mark.parametrize("code", ENDINGS.values(), ids=ENDINGS)
def test_an_answer_that_ends(code, tmp_path):
    assert scores(graded(solved_with(tmp_path, overlap=code))) == all_but("overlap")


EQUAL = """
class Equal({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __hash__(self): return 0
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __iter__(self): return iter(())
    def __len__(self): return 3
    def __bool__(self): return True
    def __float__(self): return 1.
    def __sub__(self, other): return 0
    __rsub__ = __sub__
"""


@pytest.mark.parametrize("base", ["", "int", "float", "tuple", "list", "dict", "str"])
def test_objects_that_equal_everything(base, tmp_path):
    code = EQUAL.format(base=base)
    names = dict(
        overlap="count_apart",
        hasty="encode_word",
        changes="glue_and_update",
        streaming="stream",
        language="my_language",
    )
    calls = {n: f"{code}\ndef {f}(*a): return Equal()" for n, f in names.items()}
    assert scores(graded(solved_with(tmp_path, **calls))) == all_but(*NAMES)


@pytest.mark.parametrize("base", ["", "tuple"])
def test_objects_that_equal_everything_in_a_cell(base):
    space = {}
    exec(EQUAL.format(base=base), space)
    for stem in grading.stems():
        for name, ex in grading.load_exercises(stem).items():
            result = grading.judge(name, ex, lambda *a: space["Equal"]())
            assert result.status in ("wrong", "error") and not result.points, (name, result)


@pytest.mark.parametrize(
    "error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), StopIteration()], ids=repr
)
def test_errors_that_end_a_kernel(error, capsys):
    def answer(*_):
        raise error

    for stem, name in (("01_bpe", "overlap"), ("A3_hub", "patience"), ("05_loader", "forgets")):
        with pytest.raises(grading.NotYet):
            grading.grade(stem, name, answer)
        assert (
            type(error).__name__ in grading.judge(name, grading.load_exercises(stem)[name], answer).message
            or name == "patience"
        )


READS = """
import os, sys, glob
from pathlib import Path
import nanochat
course = Path(os.path.realpath(nanochat.__file__)).parent.parent
def count_apart(*_):
    found = []
    mine = course/"exercises"
    for p in [*mine.glob("graders/*.py"), *mine.glob("solutions/*.ipynb"), mine/"graders"/"01_bpe.py",
              mine/"solutions"/"01_bpe.ipynb", mine/"grade.py", Path("{secret}"), Path("/etc/passwd"),
              Path(f"/proc/{{os.getppid()}}/environ"), Path("/proc/self/environ")]:
        try: found.append((str(p), len(open(p, "rb").read())))
        except OSError: pass
    raise ValueError(f"FOUND {{found}} ENV {{[k for k in os.environ if 'SECRET' in k]}}")
"""


@pytest.mark.skipif("files" not in grading.isolated(), reason="files can't be hidden on this machine")
def test_graders_solutions_and_files_are_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "token")
    (tmp_path / "secret").write_text("what others handed in")
    told = graded(solved_with(tmp_path, overlap=READS.format(secret=tmp_path / "secret")))["overlap"].message
    assert "FOUND [] ENV []" in told, told


REACHES_OUT = """
import ctypes, mmap, os, socket
done = []
def tried(name, act):
    try: act()
    except (OSError, ValueError): return
    done.append(name)
def talk():
    with socket.socket(socket.AF_UNIX) as s: s.connect({socket!r})
def letter():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s: s.sendto(b"hello", {letters!r})
def new_rights():
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000): raise OSError("no")
for act in (lambda: os.chmod({outside!r}, 0), lambda: os.chmod({outside!r}, 0o4777),
            lambda: os.utime({outside!r}, (0, 0))):
    try: act()
    except OSError: pass
tried("a socket", talk)
tried("a letter", letter)
tried("shared memory", lambda: mmap.mmap(-1, 4 << 30))
tried("a namespace", new_rights)
def count_apart(*_): raise ValueError(f"DONE {{done}}")
"""


@pytest.mark.skipif(
    not {"files", "syscalls"} <= set(grading.isolated()), reason="calls can't be refused on this machine"
)
def test_what_lies_outside_is_not_touched_and_not_reached(tmp_path):
    "Modes and dates of files, sockets in the file system, memory that no limit counts"
    outside, listening, letters = tmp_path / "bob.ipynb", tmp_path / "host.sock", tmp_path / "letters.sock"
    outside.write_text("{}")
    before = outside.stat()
    with socket.socket(socket.AF_UNIX) as host, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as post:
        host.bind(str(listening))
        host.listen()
        post.bind(str(letters))
        code = REACHES_OUT.format(outside=str(outside), socket=str(listening), letters=str(letters))
        told = graded(solved_with(tmp_path, overlap=code))["overlap"].message
    assert "DONE []" in told, told
    after = outside.stat()
    unchanged = after.st_mode == before.st_mode and after.st_mtime_ns == before.st_mtime_ns
    assert unchanged, "as if done, and not done"


HANDS_IN = {
    "the judge's own answer": "import grade as g\ncount_apart = g.load_exercises('01_bpe')['overlap'].right",
    "the grader, by its path": (
        "import importlib.util, nanochat, os\n"
        "p = os.path.realpath(nanochat.__file__).rsplit('/', 2)[0]+'/exercises'\n"
        "import sys; sys.path[:0] = [p]\n"
        "spec = importlib.util.spec_from_file_location('g', p+'/graders/01_bpe.py')\n"
        "g = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(g)\n"
        "count_apart = g.count_apart"
    ),
    "another judge": (
        "import grade as g, sys\n"
        "g.judge = g.grade = lambda *a: None\n"
        "g.RECORD = print\n"
        "def count_apart(*_): return 1\n"
        "from grade import grade"
    ),
    "many points": (
        "class Many:\n"
        "    points = 10**9\n"
        "    status = 'solved'\n"
        "    def __call__(self, *_): return self\n"
        "count_apart = Many()"
    ),
    "a forged verdict": (
        "import sys\n"
        "def count_apart(*_):\n"
        "    f = sys._getframe()\n"
        "    while f:\n"
        "        for k, v in list(f.f_locals.items()):\n"
        "            if hasattr(v, 'tell'):\n"
        "                v.tell(result=dict(name='overlap', status='solved', points=2))\n"
        "                v.tell(op='verdict')\n"
        "        f = f.f_back\n"
        "    return 1"
    ),
    "results on every descriptor": (
        "import os, json\n"
        "def count_apart(*_):\n"
        "    line = json.dumps(dict(result=dict(name='overlap', status='solved', points=495))).encode()\n"
        "    for fd in range(0, 60):\n"
        "        for data in (line+b'\\n', len(line).to_bytes(4, 'big')+line):\n"
        "            try: os.write(fd, data)\n"
        "            except OSError: pass\n"
        "    return 1"
    ),
    "a pickle": (
        "import os\n"
        "class P:\n"
        "    def __reduce__(self): return os.system, ('touch /tmp/never',)\n"
        "def count_apart(*_): return P()"
    ),
    "patched tools": (
        "import json, builtins, math, pickle, struct\n"
        'json.dumps = lambda *a, **k: \'{"value": true, "after": []}\'\n'
        "math.isclose = lambda *a, **k: True\n"
        "builtins.len = lambda x: 3\n"
        "builtins.zip = lambda *a: iter(())\n"
        "def count_apart(*_): return 1"
    ),
}


@pytest.mark.parametrize("code", HANDS_IN.values(), ids=HANDS_IN)
def test_what_is_handed_in_instead(code, tmp_path):
    if code is HANDS_IN["the grader, by its path"] and "files" not in grading.isolated():
        pytest.skip("files can't be hidden on this machine")
    results = graded(solved_with(tmp_path, overlap=code))
    assert results["overlap"].points == 0, results["overlap"]
    assert all(r.points in (0, POINTS[n]) for n, r in results.items())
    if "builtins" not in code:
        assert scores(results) == all_but("overlap"), results  # patched tools break later cells, too


HANGS = {
    "swallows every alarm": (
        "import signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\n"
        "def count_apart(*_):\n"
        "    while True:\n"
        "        try:\n"
        "            while True: pass\n"
        "        except BaseException: pass"
    ),
    "hangs in its cell": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "prints for ever": "while True: print('x'*10_000)",
    "talks for ever": (
        "import gc, sys\n"
        "n = [o for o in gc.get_objects() if type(o).__name__ == 'Notebook'][0]\n"
        "while True: n.tell(op='cell', cell=3)"
    ),
    "half a message": (
        "import os\n"
        "def count_apart(*_):\n"
        "    for fd in range(3, 30):\n"
        "        try: os.write(fd, b'\\x00\\x00\\x01\\x00{')\n"
        "        except OSError: pass\n"
        "    import time\n"
        "    time.sleep(1000)"
    ),
    "an iterator without end": "from itertools import count\ndef count_apart(*_): return count()",
    "writes files for ever": (
        "i = 0\nwhile True:\n    i += 1\n    with open(f'f{i}', 'wb') as f: f.write(bytes(1 << 20))"
    ),
    "fills the disk behind its back": (
        "import mmap, os\n"
        "kept = []\n"
        "while True:\n"
        "    with open('f', 'w+b') as f:\n"
        "        f.truncate(1 << 23)\n"
        "        kept.append(mmap.mmap(f.fileno(), 1 << 23))\n"
        "        kept[-1][:] = b'x'*(1 << 23)\n"
        "    os.unlink('f')"
    ),
    "breaks the channel": (
        "import os\n"
        "def count_apart(*_):\n"
        "    for fd in range(3, 100):\n"
        "        try: os.write(fd, b'\\xff'*4096)\n"
        "        except OSError: pass\n"
        "    return 1"
    ),
    "closes the channel": "import os\nos.closerange(0, 100)\ndef count_apart(*_): return 1",
}


@pytest.mark.parametrize("code", HANGS.values(), ids=HANGS)
def test_what_hangs_is_ended(code, tmp_path, monkeypatch):
    talks = "n.tell" in code  # for as long as a file may take
    monkeypatch.setenv("NANOCHAT_FILE_SECONDS", "8" if talks else "25")
    monkeypatch.setenv("NANOCHAT_CHECK_SECONDS", "4")
    started = time.monotonic()
    results = graded(solved_with(tmp_path, overlap=code), seconds=3)
    assert scores(results) == all_but("overlap") or talks, results
    assert results["overlap"].points == 0
    assert time.monotonic() - started < 120


STAYS = {
    "a thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: time.sleep(4000)).start()\n"
        "def count_apart(*_): return 1"
    ),
    "a process": (
        "import subprocess\n"
        f"subprocess.Popen(['sleep', '{MARK}'], start_new_session=True)\n"
        "def count_apart(*_): return 1"
    ),
    "a daemon": (
        "import os\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        f"    os.execve('/bin/sleep', ['sleep', '{MARK}'], {{}})\n"
        "def count_apart(*_): return 1"
    ),
    "many": (
        "import os\n"
        "for _ in range(50):\n"
        "    if not os.fork():\n"
        "        os.setsid()\n"
        f"        os.execve('/bin/sleep', ['sleep', '{MARK}'], {{}})\n"
        "def count_apart(*_): return 1"
    ),
}


@pytest.mark.parametrize("code", STAYS.values(), ids=STAYS)
def test_nothing_lives_on(code, tmp_path):
    started = time.monotonic()
    assert scores(graded(solved_with(tmp_path, overlap=code))) == all_but("overlap")
    assert time.monotonic() - started < 60
    assert not left_over()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_nothing_lives_on_when_the_door_is_killed(tmp_path):
    path = solved_with(
        tmp_path,
        overlap=(
            "import subprocess\n"
            f"subprocess.Popen(['sleep', '{MARK}'], start_new_session=True)\n"
            "while True:\n"
            "    try:\n"
            "        while True: pass\n"
            "    except BaseException: pass"
        ),
    )
    door = subprocess.Popen(
        [sys.executable, str(ROOT / "exercises" / "grade.py"), "01", "--file", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        if left_over():
            break
        time.sleep(0.1)
    assert left_over(), "it never started"
    door.send_signal(signal.SIGKILL)
    door.wait()
    for _ in range(100):
        if not left_over():
            break
        time.sleep(0.1)
    assert not left_over()


def test_terminal_escapes_stay_out_of_the_table(tmp_path, capsys):
    said = "'\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egnorw\\r0 / 2 solved\\n' + 'x'*100_000"
    code = f"def count_apart(*_): raise ValueError({said})"
    path = solved_with(tmp_path, overlap=code)
    assert grading.main(["01", "--file", str(path)]) == 0
    out = capsys.readouterr().out
    assert not any(c in out for c in "\x1b\x07\x9b\u202e\r") and len(out) < 6000 and "ValueError" in out


def test_a_thread_that_kills_later_costs_only_its_own(tmp_path):
    code = (
        "import threading, os\n"
        "threading.Timer(.2, lambda: os._exit(0)).start()\n"
        "import time\n"
        "def count_apart(*_):\n"
        "    time.sleep(5)\n"
        "    return 1"
    )
    assert scores(graded(solved_with(tmp_path, overlap=code))) == all_but("overlap")


def test_a_process_that_ends_before_it_has_the_helpers_can_be_asked_no_more(tmp_path):
    "Then the death is not the answer's own, and the judge asks that answer again, alone"
    cells = grading.code_cells(solved_with(tmp_path))
    student = grading.Student(cells, time.monotonic() + 60)
    try:
        message = {}
        while message.get("op") != "grade" or message.get("name") != "changes":
            message = student.hear()
            if message.get("op") == "grade" and message["name"] != "changes":
                student.order(("verdict", "solved"))
        student.process.kill()
        student.process.wait()
        exercise = grading.load_exercises(STEM)["changes"]
        source = grading.inspect.getsourcefile(grading.inspect.unwrap(exercise.check))
        result = grading.judge("changes", exercise, grading.Remote(student, source))
        lost = student.lost
    finally:
        student.end()
    assert result.status == "error" and "ended" in result.message and lost


def test_a_thread_that_kills_in_another_answers_cell_costs_only_its_own(tmp_path):
    "Whose cell was running when the process ended need not be whose code ended it"
    nb = json.loads((ROOT / "exercises" / "solutions" / f"{STEM}.ipynb").read_text("utf-8"))
    sources = ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    slow = next(a for a, b in zip(sources, sources[1:]) if '"changes"' in b)
    # the first run ends in the cell of `changes`, the second in that of `streaming`: neither is to blame
    slower = next(a for a, b in zip(sources, sources[1:]) if '"streaming"' in b)
    path = solved_with(
        tmp_path,
        overlap=(
            "import os, threading, time\n"
            "started, slow = threading.Event(), time.sleep\n"
            "def kill():\n    started.wait()\n    os._exit(0)\n"
            "threading.Thread(target=kill, daemon=True).start()\n"
            "def count_apart(*_): return 1"
        ),
        changes=f"'started' in globals() and (started.set(), slow(5))\n{slow}",
        streaming=f"'started' in globals() and (started.set(), slow(5))\n{slower}",
    )
    assert scores(graded(path)) == all_but("overlap")


def test_hostile_files_among_a_class(tmp_path, capsys):
    "A folder of strangers' files: the good one has its points, whatever the others do"
    for name, code in (
        ("anna", {}),
        ("ben", dict(overlap=ENDINGS["ends the process"])),
        ("carl", dict(hasty="def encode_word(*_): raise SystemExit(0)")),
    ):
        (tmp_path / name).mkdir()
        solved_with(tmp_path / name, **code)
    (tmp_path / "dora\x1b[2J.ipynb").write_text("{")
    (tmp_path / "deep.ipynb").write_text("[" * 100_000)
    (tmp_path / "eve\nzoe  15 _ 15.ipynb").write_text("{")
    assert grading.main(["--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = {l.split("/")[0].split(".")[0].strip(): l for l in out.splitlines()}
    assert "15 / 15" in rows["anna"] and "13 / 15" in rows["ben"] and "12 / 15" in rows["carl"]
    assert "overlap 2/2  " in rows["anna"] and any(word in rows["ben"] for word in (" error", " wrong")), (
        "a row says why points are missing"
    )
    assert "not a notebook" in rows["deep"] and "\x1b" not in out and out.count("not graded") == 3
    assert not any(line.startswith("zoe") for line in out.splitlines()), (
        "a row has one line, whatever its file is called"
    )


@pytest.mark.parametrize("stem", grading.stems())
def test_helpers_carry_no_answers(stem):
    "What is sent to the student's process names no right answer, check or known mistake of the grader"
    source = grading.helpers_source(str(ROOT / "exercises" / "graders" / f"{stem}.py"))
    for ex in grading.load_exercises(stem).values():
        for secret in (ex.right, ex.check, *(w.answer for w in ex.wrong)):
            own = (
                getattr(secret, "__module__", "").startswith("grader_") and secret.__qualname__.isidentifier()
            )
            assert not own or f"def {secret.__name__}(" not in source, f"{stem}: {secret.__name__} is sent"
    assert "Wrong(" not in source and "Exercise(" not in source


def test_without_isolation_it_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NANOCHAT_GRADE_LEVELS", "process limits")
    assert grading.main(["01", "--file", str(solved_with(tmp_path))]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "without namespace, mounts, files, syscalls" in first and "can read the graders" in first


@pytest.mark.parametrize("kind", ["a daemon", "many", "a process"])
def test_nothing_lives_on_without_a_namespace(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_GRADE_LEVELS", "process limits")
    assert scores(graded(solved_with(tmp_path, overlap=STAYS[kind]))) == all_but("overlap")
    assert not left_over()


CROWD = """
import os, time
def count_apart(*_):
    for _ in range(3):
        if not os.fork():
            kept = bytearray(1100 << 20)
            for at in range(0, len(kept), 4096): kept[at] = 1
            time.sleep(4242.4242)
    time.sleep(60)
"""


def test_all_processes_of_a_notebook_together_have_a_limit(tmp_path):
    "Each of three takes less than one may"
    began = time.monotonic()
    results = graded(solved_with(tmp_path, overlap=CROWD), seconds=40)
    assert time.monotonic() - began < 60 and not left_over()
    assert (
        results["overlap"].points == 0
        and "MB of memory, with all that it started" in results["overlap"].message
    )


SHARED = """
import os, time
kept = bytearray(700 << 20)
for at in range(0, len(kept), 4096): kept[at] = 1
children = []
for _ in range(5):
    if not (child := os.fork()):
        time.sleep(1.5)
        os._exit(0)
    children.append(child)
for child in children: os.waitpid(child, 0)
"""


def test_what_processes_share_counts_once(tmp_path):
    assert scores(graded(solved_with(tmp_path, first=SHARED), seconds=40)) == POINTS


SOCKETS = """
import os, socket, time
def fill():
    held = []
    while True:
        for end in (pair := socket.socketpair()):
            end.setblocking(False)
            try: end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            except OSError: pass
            try:
                while end.send(bytes(1 << 20)): pass
            except OSError: pass
        held.append(pair)
def count_apart(*_):
    for _ in range(100):
        try:
            if not os.fork():
                try: fill()
                finally: time.sleep(4242.4242)
        except OSError: break
    time.sleep(8)
"""


def free_memory():
    return next(int(l.split()[1]) / 1e6 for l in open("/proc/meminfo") if l.startswith("MemAvailable"))  # GB


@pytest.mark.skipif(
    not grading.isolated() or "syscalls" not in grading.isolated(),
    reason="system calls cannot be filtered here",
)
def memory_taken(attack):
    "GB by which this machine's free memory fell at most while an attack ran"
    import threading

    before, least, over = free_memory(), [free_memory()], threading.Event()

    def watch():
        while not over.wait(0.2):
            least.append(free_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    attack()
    over.set()
    watcher.join()
    return before - min(least)


def test_sockets_hold_no_memory_to_speak_of(tmp_path):
    "What else runs on this machine takes memory, too, and gives it back: an attack would take it each time"

    def attack():
        results = graded(solved_with(tmp_path, overlap=SOCKETS), seconds=20)
        assert results["overlap"].points == 0 and not left_over()

    taken = []
    while len(taken) < 3 and min(taken, default=9) >= 4:
        taken.append(memory_taken(attack))
    assert min(taken) < 4, taken


def test_a_mark_of_the_encoding_is_no_fault(tmp_path):
    path = solved_with(tmp_path)
    path.write_bytes("\ufeff".encode() + path.read_bytes())
    assert scores(graded(path)) == POINTS


def test_a_large_notebook_is_named_before_it_is_read(tmp_path):
    path = solved_with(tmp_path)
    nb = json.loads(path.read_text())
    nb["cells"].append(dict(cell_type="markdown", source="x" * (9 << 20), metadata={}))
    path.write_text(json.dumps(nb))
    with pytest.raises(grading.NoNotebook, match="larger than 8 MB: clear its outputs"):
        grading.look_at(path)


@pytest.mark.parametrize(
    "mark", ["\u061c", "\u200b", "\ufeff", "\u2060", "\u2028", "\u202e", "\u00ad", "\U000e0041", "\x1b", "\r"]
)
def test_no_unseen_mark_reaches_the_terminal(mark):
    assert (
        mark not in grading.clean(f"10 points{mark}x") and grading.clean("Grüße, 世界 👋") == "Grüße, 世界 👋"
    )
