"A command in a copy of the warm Python does what it would do in a Python of its own"

import os, socket, subprocess, sys, time
import pytest
import warm
from conftest import ROOT, environment, launched, torchrun

SAYS = """
import atexit, os, sys, threading, time, torch
atexit.register(print, "the end")
threading.Thread(target=lambda: time.sleep(0.1) or print("a thread")).start()
print(sys.argv[1:], os.environ["SAID"], os.getcwd(), sys.stdin.read(), __name__)
print(torch.ones(300, 300).sum().item())
how = sys.argv[1]
if how == "fails": raise KeyError("a bug")
if how == "stops": raise KeyboardInterrupt
if how == "dies": os.kill(os.getpid(), 9)
if how == "says": sys.exit("error: no")
sys.exit(int(how))
"""


@pytest.mark.parametrize(
    "how, status, last",
    [
        ("0", 0, ""),
        ("3", 3, ""),
        ("fails", 1, "KeyError: 'a bug'"),
        ("stops", -2, "KeyboardInterrupt"),
        ("dies", -9, ""),
        ("says", 1, "error: no"),
    ],
)
def test_warm_is_like_cold(tmp_path, how, status, last):
    (tmp_path / "says.py").write_text(SAYS)
    done = warm.run("says", [how, "b c"], tmp_path, environment(SAID="hello"), "typed", 60)
    assert done.returncode == status
    if how != "dies":  # what it had not yet written is lost
        assert done.stdout == f"{[how, 'b c']} hello {tmp_path} typed __main__\n90000.0\na thread\nthe end\n"
    assert "".join(done.stderr.splitlines()[-1:]) == last


def test_a_job_that_ends_before_its_number_is_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        warm.tell(theirs, 26723)
        warm.tell(theirs, 256)
        assert (warm.told(ours), warm.told(ours)) == (26723, 256)


def test_what_is_read_early_has_a_python_of_its_own():
    here = environment(SAID="hello")
    assert warm.early(here) == warm.early(here | dict(SAID="other", PYTHON="python3"))
    assert warm.early(here) != warm.early(here | dict(OMP_NUM_THREADS="64"))
    assert warm.early(here) != warm.early(here | dict(PYTHONHASHSEED="1"))


def test_what_takes_too_long_is_ended(tmp_path):
    says = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    (tmp_path / "says.py").write_text(says)
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run("says", [], tmp_path, environment(), "", 2)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.05)
    pytest.fail("the job lives on")


def test_a_stand_in_for_python(tmp_path):
    around = environment(tmp_path / "base")
    program = warm.stand_in(around)
    command = [program, "-c", "import sys; print(sys.executable)"]
    out = subprocess.run(command, env=around, capture_output=True, text=True)
    assert out.stdout.strip() == sys.executable, "what is no module of the library, Python does itself"
    for tier, status in (("smoke", 0), ("no such", 1)):
        command = [program, "-m", "nanochat.scaling", "--dry_run", "--tier", tier]
        out = subprocess.run(command, env=around, capture_output=True, text=True, cwd=ROOT)
        assert out.returncode == status
        assert out.stdout.startswith("tier smoke") if status == 0 else "no such" in out.stderr


def test_a_launcher_s_processes_are_copies_too(tmp_path):
    "Both launchers, a script and a module; a process that is killed from outside is seen to be"
    script = tmp_path / "says.py"
    script.write_text(
        "import os, sys, torch\n"
        "who = open(f'/proc/{os.getpid()}/cmdline').read()\n"
        "rank, threads = os.environ['RANK'], torch.get_num_threads()\n"
        "sys.stdout.write(f'{rank} {\"warm.py\" in who} {threads} {sys.argv[1:]} {__file__}\\n')\n"
    )
    for start in (launched, torchrun):
        done = start(2, script, "--a", "b c")
        assert done.returncode == 0, done.stderr
        said = sorted(done.stdout.splitlines())
        expected = [f"{rank} True 1 ['--a', 'b c'] {script}" for rank in (0, 1)]
        assert said == (expected if start is torchrun else expected[:1])
    script.write_text("import os\nos.environ['RANK'] != '1' or os.kill(os.getpid(), 9)")
    done = launched(2, script)
    assert done.returncode == 128 + 9 and "process 1 of 2 was ended by SIGKILL" in done.stderr
