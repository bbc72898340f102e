"The place where a stranger's program runs: older kernels, full disks, daemons, and what a result says"

import os, subprocess, sys, tempfile, textwrap, time, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from conftest import ROOT, environment
from nanochat import tools
from nanochat.tools import LEVELS, isolation, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
BARE_CONTAINER = ("process", "limits", "files", "syscalls")  # no user namespaces: Docker's default
SETTINGS = [
    (levels, landlock)
    for levels in (LEVELS, BARE_CONTAINER, ("process", "limits", "namespace", "files", "syscalls"))
    for landlock in (1, 2, 3, 5, 99)
]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def need(*levels):
    for level in levels:
        if not isolation()[level]:
            pytest.skip(f"{level} cannot be switched on here")


def run(code, **more):
    return run_python(textwrap.dedent(code), **more)


# ---- what older kernels would let through


@pytest.mark.parametrize("levels, landlock", SETTINGS)
def test_no_file_outside_can_be_emptied(levels, landlock, tmp_path, monkeypatch):
    "By truncate, by opening for reading with O_TRUNC, by access mode 3; readable library files too"
    need("syscalls", "files")
    plain, readable = tmp_path / "plain", tmp_path / "lib" / "readable"
    readable.parent.mkdir()
    library = tools.library()
    monkeypatch.setattr(
        tools,
        "library",
        lambda: {
            **library,
            "read": library["read"] + [str(readable.parent)],
            "few": library["few"] + [str(readable.parent)],
        },
    )
    for file in (plain, readable):
        file.write_text("dear diary")
    done = run(
        f"""
        import os
        worked = []
        for path in {str(plain)!r}, {str(readable)!r}:
            flags = [os.O_RDONLY|os.O_TRUNC, 3|os.O_TRUNC, 3, os.O_WRONLY, os.O_RDWR|os.O_TRUNC,
                     os.O_RDONLY|os.O_CREAT|os.O_TRUNC]
            ways = [lambda flag=flag: os.open(path, flag) for flag in flags]
            for way in (*ways, lambda: os.truncate(path, 0), lambda: open(path, 'a')):
                try: way(); worked.append(path)
                except OSError: pass
        print(worked)""",
        levels=levels,
        landlock=landlock,
    )
    assert (done.stdout, plain.read_text(), readable.read_text()) == ("[]\n", "dear diary", "dear diary"), (
        done
    )


@pytest.mark.parametrize("levels, landlock", SETTINGS)
def test_fcntl_gives_files_no_owner_no_signal_and_no_lease(levels, landlock):
    need("syscalls")
    victim = subprocess.Popen(["sleep", "30"])
    try:
        done = run(
            f"""
            import fcntl, os, struct
            worked = []
            r, w = os.pipe()
            own = os.open('own', os.O_RDWR|os.O_CREAT)
            attacks = [('owner', r, 8, {victim.pid}), ('owner_ex', r, 15, struct.pack('ii', 1, {victim.pid})),
                       ('signal', r, 10, 9), ('lease', own, 1024, 0), ('write lease', own, 1024, 1),
                       ('notify', os.open('.', 0), 1026, 0x8000003f), ('pipe size', r, 1031, 1 << 20),
                       ('seal', own, 1033, 0)]
            for name, fd, command, value in attacks:
                try: fcntl.fcntl(fd, command, value); worked.append(name)
                except OSError: pass
            fcntl.fcntl(r, 4, 0o20000)
            os.write(w, b'x')
            print(worked, fcntl.fcntl(r, 1), fcntl.fcntl(own, 3) & 3, os.dup(r) > 2)""",
            levels=levels,
            landlock=landlock,
        )
        time.sleep(0.05)
        assert (done.stdout, victim.poll()) == ("[] 1 2 True\n", None), done
    finally:
        victim.kill()
        victim.wait()


def test_files_counts_as_off_before_landlock_3():
    need("files")
    for landlock, on in ((1, False), (2, False), (3, True), (4, True), (5, True), (6, True), (99, True)):
        assert ("files" in run_python("pass", landlock=landlock).levels) is on


def test_signals_find_nobody_outside():
    "No number of ours is a process of theirs, and the parent's number is not told"
    need("namespace")
    victim = subprocess.Popen(["sleep", "30"])
    done = run(
        f"""
        import os, signal
        print(os.getppid(), os.getpid())
        try: os.kill({victim.pid}, 9); print('sent')
        except OSError: pass""",
        levels=("process", "limits", "namespace"),
    )
    time.sleep(0.05)
    assert (done.stdout, victim.poll()) == ("0 1\n", None)
    victim.kill()
    victim.wait()


def test_root_gives_up_its_rights(tmp_path):
    "Even without a namespace a program of root's reads no file of somebody else's"
    if os.getuid() != 0:
        pytest.skip("only root has such rights")
    file = tmp_path / "diary"
    file.write_text("dear diary")
    file.chmod(0o600)
    os.chown(file, 12345, 12345)
    assert "Permission denied" in run_python(f"open({str(file)!r})", levels=("process",)).stderr


# ---- what can be seen


def test_files_outside_do_not_even_exist():
    "Neither their size nor their time nor their names"
    need("mounts")
    done = run(f"""
        import os
        def there(path):
            try: os.stat(path); return True
            except OSError: return False
        paths = ['/etc/passwd', '/etc/shadow', '/proc', '/proc/self', '/home', '/tmp', '/sys', '/var',
                 {str(ROOT)!r}, {__file__!r}, {sys.executable!r}, '/dev/shm', '/dev/tty', '/bin/sh']
        print([p for p in paths if there(p)])
        print(os.getcwd(), os.getuid(), os.getgid())""")
    assert done.stdout == "[]\n/program 65534 65534\n", done


@pytest.mark.parametrize("levels", [LEVELS, BARE_CONTAINER])
def test_installed_packages_cannot_be_read_and_the_standard_library_can(levels):
    need("files")
    packages = [f for f in tools.library()["hidden"] if os.listdir(f)]
    done = run(
        f"""
        import os
        found = 0
        for folder in {packages!r}:
            for top, folders, files in os.walk(folder):
                for file in files:
                    try: found += len(open(os.path.join(top, file), 'rb').read(1))
                    except OSError: pass
        print(found)
        import json, ssl, ctypes, sqlite3, decimal, unittest
        import dataclasses, typing, statistics, xml.dom.minidom, email
        print(sqlite3.connect(':memory:').execute('select 1+1').fetchone())""",
        levels=levels,
        seconds=60,
    )
    assert done.stdout == "0\n(2,)\n", done


def test_its_text_lies_in_no_file_and_on_no_command_line():
    done = run("""
        import os, sys
        on_command_line = any('guard(' in a and 'levels' in a for a in sys.orig_argv)
        open_files = [fd for fd in range(3, 32) if os.path.exists(f'/proc/self/fd/{fd}')]
        print(os.listdir('.'), on_command_line, open_files)""")
    assert done.stdout.startswith("[] False"), done


# ---- the disk

MAPPED = """
    import ctypes, os
    libc, made = ctypes.CDLL(None), 0
    libc.mmap.restype = ctypes.c_void_p
    try:
        for i in range(200):
            f = open('f', 'w+b')
            f.write(bytes(1 << 20))
            f.flush()
            place = libc.mmap(None, ctypes.c_long(4096), 3, 1, f.fileno(), ctypes.c_long(0))
            assert place != ctypes.c_void_p(-1).value
            f.close()
            os.unlink('f')
            made += 1
    finally: print(made)"""


def test_mapped_files_are_an_attack_at_all():
    "With fewer levels it gets through: the test beneath is one"
    assert int(run(MAPPED, levels=("process", "limits")).stdout) == 200


@pytest.mark.parametrize("levels", [LEVELS, BARE_CONTAINER])
def test_unlinked_mapped_files_are_capped(levels):
    need("syscalls", *(["mounts"] if levels is LEVELS else []))
    done = run(MAPPED, levels=levels)
    assert done.status in ("limit", "error") and int(done.stdout) <= 17, done


@pytest.mark.parametrize("levels", [LEVELS, BARE_CONTAINER])
def test_files_without_a_name_are_refused_and_tempfile_still_works(levels):
    need("syscalls", *(["mounts"] if levels is LEVELS else []))
    done = run(
        """
        import os, tempfile
        try: os.open('.', os.O_TMPFILE|os.O_RDWR); print('nameless')
        except OSError: pass
        f = tempfile.NamedTemporaryFile('w+', dir='.', delete=False)
        f.write('kept'); f.seek(0); print(f.read())""",
        levels=levels,
    )
    assert done.stdout == "kept\n", done


def test_what_may_be_written_is_counted_by_bytes_and_by_entries():
    need("mounts")
    assert run("for i in range(40): open(str(i), 'wb').write(bytes(1 << 20))").status == "limit"
    assert run("for i in range(2000): open(str(i), 'w').close()").status == "limit"
    assert run("import os\nfor i in range(2000): os.mkdir(str(i))").status == "limit"
    assert (
        run("for i in range(12): open(str(i), 'wb').write(bytes(1 << 20))\nprint('fits')").stdout == "fits\n"
    )


SMALL_DISK = """
import os, sys, tempfile, warnings
from concurrent.futures import ThreadPoolExecutor
from nanochat import tools
warnings.simplefilter("ignore")
uid, gid = os.getuid(), os.getgid()
tools.kernel("unshare", 0x10000000 | 0x20000)
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
open("/proc/self/gid_map", "w").write(f"0 {gid} 1")
tools.kernel("mount", b"small", sys.argv[1].encode(), b"tmpfs", 0, b"size=20m")
tempfile.tempdir = sys.argv[1]
levels = tuple(sys.argv[2].split())
def neighbour(i):
    said = tools.run_python("print(6*7)", levels=levels).stdout
    return said, tools.judge_code("def f(x): return x+1", [("f(1)", 2)], levels=levels).right
fillers = [sys.argv[3], "i = 0\\nwhile True:\\n i += 1\\n open(f'{i}', 'wb').write(bytes(1 << 20))"]
with ThreadPoolExecutor(6) as pool:
    bad = [pool.submit(tools.run_python, f, levels=levels) for f in fillers]
    good = list(pool.map(neighbour, range(12)))
    print(set(good), [b.result().ok for b in bad])
print(os.listdir(sys.argv[1]))
"""


@pytest.mark.parametrize("levels", [LEVELS, BARE_CONTAINER])
def test_a_program_that_fills_the_folder_fails_no_neighbour(levels, tmp_path):
    "On a disk of 20 MB: right programs beside it stay right, nothing is left behind"
    need("mounts", "syscalls")
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(tmp_path), " ".join(levels), textwrap.dedent(MAPPED)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "{('42\\n', True)} [False, False]\n[]\n", (done.stdout, done.stderr)


# ---- ok

RAISED = {
    "an exception": "1/0",
    "excepthook leaves": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\nraise KeyboardInterrupt",
    "excepthook is silent": "import sys\nsys.excepthook = lambda *a: None\nraise BaseException('x')",
    "traceback is patched": "import traceback, os\nfor name in dir(traceback):\n if "
    "callable(getattr(traceback, name)): setattr(traceback, name, lambda "
    "*a, **k: os._exit(0))\nraise ValueError",
    "with_traceback leaves": "class E(Exception):\n def with_traceback(self, t): raise "
    "SystemExit(0)\nraise E",
    "__traceback__ leaves": "import os\nclass E(Exception):\n __traceback__ = property(lambda "
    "self: os._exit(0))\nraise E",
    "str leaves": "import os\nclass E(Exception):\n def __str__(self): os._exit(0)\n __repr__ = "
    "__str__\nraise E",
    "stderr leaves": "import os, sys\nclass S:\n def write(self, x): os._exit(0)\n flush = "
    "write\nsys.stderr = sys.stdout = S()\nraise ValueError",
    "os._exit and sys.exit are patched": (
        "import os, sys\nleave = os._exit\nos._exit = sys.exit = lambda *a: leave(0)\nraise ValueError"
    ),
    "atexit leaves": "import atexit, os\natexit.register(lambda: os._exit(0))\nraise ValueError",
    "atexit raises": "import atexit\natexit.register(lambda: 1/0)",
    "atexit exits": "import atexit, os\natexit.register(lambda: os._exit(0))",
    "an odd exit": "raise SystemExit(1)",
    "an exit with a text": "raise SystemExit('no')",
    "an exit with an object": "class E(SystemExit):\n code = property(lambda self: 1/0)\nraise E",
    "a number equal to nought": "class E(int):\n def __eq__(s, o): return True\nraise SystemExit(E(3))",
    "leaves without an end": "import os\nos._exit(0)",
    "closes every pipe": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\n"
    "os.closerange(3, 32)\nraise KeyboardInterrupt",
    "replaces every pipe": "import os, sys\nn = os.open('/dev/null', os.O_WRONLY)\nfor fd in "
    "range(3, 32):\n if fd != n: os.dup2(n, fd)\nsys.excepthook = lambda "
    "*a: os._exit(0)\nraise KeyboardInterrupt",
    "writes words to every pipe": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\nfor "
    "fd in range(3, 32):\n try: os.set_blocking(fd, False); "
    "os.write(fd, b'end 0 finished\\nlevels x\\nok\\n')\n except "
    "OSError: pass\nraise KeyboardInterrupt",
    "a tracer leaves": "import os, sys\ndef t(f, e, a):\n if e == 'exception': os._exit(0)\n "
    "return t\nsys.settrace(t)\ndef f(): 1/0\nf()",
    "a text that is no text": "print('\\ud800')",
    "a syntax error": "x x",
    "no memory": "x = [0]*(1 << 40)",
}


@pytest.mark.parametrize("name", RAISED)
def test_ok_is_never_said_of_a_program_that_raised(name):
    for levels in (LEVELS, ("process", "limits")):
        done = run_python(RAISED[name], levels=levels)
        assert not done.ok and done.status in ("error", "limit"), done


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "",
        "import sys\nsys.exit()",
        "raise SystemExit(0)",
        "import sys\nsys.exit(False)",
        "try: 1/0\nexcept Exception: pass",
        "import atexit\natexit.register(print, 'bye')",
        "import sys\nprint('x', file=sys.stderr)",
        "print('MemoryError')",
        "import sys\nprint('MemoryError', file=sys.stderr)",
    ],
)
def test_ok_is_said_of_a_program_that_ended_well(code):
    assert run_python(code).status == "ok"


def test_limit_is_said_of_what_happened_and_not_of_what_was_printed():
    assert run_python("import sys\nprint('MemoryError', file=sys.stderr)\nsys.exit(1)").status == "error"
    assert run_python("print('[Errno 27]')\nraise ValueError('[Errno 27]')").status == "error"
    assert run_python("bytearray(1 << 30)").status == "limit"


# ---- nothing outlives the call

DAEMON = """
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        stay = ('import os, time; print(os.getpid(), flush=True); os.close(1); os.close(2); '
                'time.sleep(30); open(TARGET, "w")')
        os.execve(EXECUTABLE, ['python', '-c', stay], {})
    time.sleep(LINGER)"""


def alive(pid):
    "A zombie is not alive"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("linger, status", [("0.3", "ok"), ("30", "timeout")])
def test_a_daemon_without_environment_does_not_outlive_the_call(linger, status, tmp_path):
    "As on a machine without namespaces and without seccomp, where only the supervisor can find it"
    code = (
        DAEMON.replace("EXECUTABLE", repr(sys.executable))
        .replace("LINGER", linger)
        .replace("TARGET", f"'{tmp_path / 'target'}'".replace("'", "\\'"))
    )
    done = run(code, levels=("process",), seconds=1)
    assert done.status == status and done.stdout.strip().isdigit(), done
    assert not alive(int(done.stdout)), "the daemon lives"


def test_a_daemon_in_a_namespace_does_not_outlive_the_call(tmp_path):
    need("namespace")
    before = {p for p in Path("/proc").glob("[0-9]*") if b"TARGETFILE" in command(p)}
    code = (
        DAEMON.replace("EXECUTABLE", repr(sys.executable))
        .replace("LINGER", "0.3")
        .replace("TARGET", "\\'TARGETFILE\\'")
    )
    assert run(code, levels=("process", "namespace")).status == "ok"
    assert {p for p in Path("/proc").glob("[0-9]*") if b"TARGETFILE" in command(p)} == before


def command(p):
    try:
        return (p / "cmdline").read_bytes()
    except OSError:
        return b""


def children(pid):
    "All descendants of a process, by number"
    parents = {}
    for p in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(p.read_text().rpartition(")")[2].split()[1]), []).append(
                int(p.parent.name)
            )
        except (OSError, IndexError):
            pass
    found = list(parents.get(pid, ()))
    for child in found:
        found += parents.get(child, ())
    return found


@pytest.mark.parametrize("levels", [LEVELS, ("process",), ("process", "limits", "syscalls")])
def test_a_parent_that_is_killed_leaves_nothing(levels, tmp_path):
    code = (
        f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\nfrom nanochat.tools import "
        f"run_python\nrun_python('while True: pass', levels={levels!r}, seconds=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment())
    deadline = time.time() + 20
    while len(found := children(parent.pid)) < 2 and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    while any(map(alive, found)) and time.time() < deadline:
        time.sleep(0.02)
    assert len(found) >= 2 and not any(map(alive, found))
    if "mounts" in levels and isolation()["mounts"]:
        assert os.listdir(tmp_path) == []


def test_no_descriptor_folder_or_process_is_left_by_many_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_python("pass")
    # other files of tests may have started helpers of their own, which stay
    before, helpers = len(os.listdir("/proc/self/fd")), set(children(os.getpid()))
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                run_python,
                [
                    "pass",
                    "1/0",
                    "open('f', 'w').write('x')",
                    "import os\nos.mkdir('a')",
                    "raise SystemExit(3)",
                ]
                * 4,
            )
        )
    left = set(children(os.getpid())) - helpers
    assert (len(os.listdir("/proc/self/fd")), os.listdir(tmp_path), left) == (before, [], set())


# ---- what is said about it


def test_a_result_says_which_levels_were_on():
    for i in range(len(LEVELS) + 1):
        wanted = LEVELS[:i]
        assert run_python("pass", levels=wanted).levels == tuple(n for n in wanted if isolation()[n])
    assert list(isolation()) == list(LEVELS)


def test_missing_levels_are_told_once():
    code = """import warnings
from nanochat import tools
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3): tools.run_python("pass", landlock=2)
    tools.run_python("pass", levels=("process",))
    for w in seen: print(w.message)"""
    need(*LEVELS)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert (
        done.stdout
        == "programs run here without files: that holds back accidents, not attacks (chapter 17)\n"
    )


# ---- the calculator


def test_a_value_that_is_all_noughts_is_refused():
    for sum_ in (
        "1/(" + "9*" * 90 + "9)",
        "1/10000000000000000",
        "-1/(" + "9*" * 90 + "9)",
        "0.00000000000000000000000000000001",
    ):
        with pytest.raises(tools.CalcError, match="too small"):
            tools.calculate(sum_)
    assert (
        tools.calculate("1/1000000000000000") == "0.000000000000001"
        and tools.calculate("0.0/(" + "9*" * 90 + "9)") == "0"
    )


def test_the_calculator_answers_every_call_of_gsm8k(shared):
    import gzip, json, re
    from fractions import Fraction

    calls = [
        m
        for part in ("train", "test")
        for l in gzip.open(shared / "gsm8k" / f"{part}.jsonl.gz", "rt")
        for m in re.findall(r"<<(.*?)=(.*?)>>", json.loads(l)["answer"])
    ]
    assert len(calls) == 27998
    for asked, said in calls:
        assert abs(Fraction(tools.calculate(asked)) - Fraction(said.replace(",", ""))) < Fraction(
            1, 100
        ) * max(1, abs(Fraction(said.replace(",", "")))), (asked, said)
