"""A Python that has loaded torch once; the commands of the tests are copies of it.

Loading torch takes two to five seconds of a core, and the tests run hundreds of the library's commands. `run`
does what `subprocess.run([python, "-m", MODULE, ...])` would: another process, with its own environment,
folder, input and output, whose last word is its exit status. `stand_in` makes a program that can take
Python's place on a command line and does the same for `-m nanochat.MODULE`. What is read while Python or
torch is loaded can't be changed afterwards, so there is one warm Python for each such environment.
"""

import atexit, functools, json, os, runpy, select, shutil, signal, socket, subprocess, sys, tempfile
from pathlib import Path

# read once, when Python, torch or the C library is loaded
EARLY = ("PYTHON", "OMP_", "MKL_", "KMP_", "GOMP_", "TORCH", "LD_", "MALLOC_", "CUDA_")
NOT_EARLY = ("PYTHON",)  # speedrun.sh's own: the Python that makes the environment
WARM = {}  # early environment: the address of its warm Python
STANDS_IN = """#!{python} -IS
import sys
sys.path.insert(0, {tests!r})
import warm
warm.stand_in_for({python!r}, {address!r})
"""


def early(env) -> frozenset:
    names = [name for name in env if name.startswith(EARLY) and name not in NOT_EARLY]
    return frozenset((name, env[name]) for name in names)


@functools.cache
def own_folder() -> Path:
    "Where sockets and stand-ins lie; gone with this process"
    folder = tempfile.mkdtemp(prefix="warm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def warm_python(env: dict) -> str:
    "The address of the warm Python for this environment, started where there is none"
    key = early(env)
    if key not in WARM:
        address = str(own_folder() / f"socket{len(WARM)}")
        command = [sys.executable, __file__, address]
        process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(process.kill)
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the warm Python did not start")
        WARM[key] = address
    return WARM[key]


class Job:
    "A command that a warm Python's copy carries out"

    def __init__(self, address: str, files, **job):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.connect(address)
        words = json.dumps(job).encode()
        socket.send_fds(self.line, [len(words).to_bytes(8, "big")], files)
        self.line.sendall(words)
        self.pid = int(self.line.recv(20))

    def wait(self, timeout=None) -> int:
        "Its status, as subprocess has it"
        self.line.settimeout(timeout)
        return os.waitstatus_to_exitcode(int(self.line.recv(20)))


def run(module: str, args: list, cwd, env: dict, stdin: str, timeout: float) -> subprocess.CompletedProcess:
    "`python -m MODULE ARGS`, its output captured as text"
    files = tempfile.TemporaryFile(), tempfile.TemporaryFile(), tempfile.TemporaryFile()
    given, out, err = files
    with given, out, err:
        given.write(stdin.encode())
        given.seek(0)
        numbers = [file.fileno() for file in files]
        job = Job(warm_python(env), numbers, module=module, args=args, cwd=str(cwd), env=env)
        try:
            status = job.wait(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired([module, *args], timeout) from None
        finally:
            job.line.close()  # whoever still runs is ended by it
        out.seek(0)
        err.seek(0)
        said = (file.read().decode() for file in (out, err))
        return subprocess.CompletedProcess([module, *args], status, *said)


def stand_in(env: dict) -> str:
    "The path of a program that can be started in Python's place, in this environment"
    address = warm_python(env)
    program = Path(address.replace("socket", "python"))
    if not program.exists():
        here = str(Path(__file__).resolve().parent)
        program.write_text(STANDS_IN.format(python=sys.executable, tests=here, address=address))
        program.chmod(0o755)
    return str(program)


def stand_in_for(python: str, address: str):
    "Carry out this process's command line; what is no module of the library, Python does itself"
    module = sys.argv[2] if sys.argv[1:2] == ["-m"] else ""
    if not module.startswith("nanochat.") or module == "nanochat.runs":  # which needs no torch
        os.execv(python, [python, *sys.argv[1:]])
    about = dict(cwd=os.getcwd(), env=dict(os.environ))
    job = Job(address, [0, 1, 2], module=module, args=sys.argv[3:], **about)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(job.pid, number))
    status = job.wait()
    if status < 0:  # ended by a signal, and so are we
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def receive(line) -> tuple:
    "A job and its three files"
    size, files, _, _ = socket.recv_fds(line, 8, 3)
    left, parts = int.from_bytes(size, "big"), []
    while left:
        parts.append(line.recv(min(left, 1 << 16)))
        left -= len(parts[-1])
    return json.loads(b"".join(parts)), files


def watch(line, pid: int):
    "Say how a job ended; end it when nobody listens any more"
    line.sendall(str(pid).encode())
    ended = os.pidfd_open(pid)
    ready, _, _ = select.select([ended, line], [], [])
    if ended not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if ended in ready:
        line.sendall(str(status).encode())
    os._exit(0)


def wait_for_job(address: str) -> dict:
    "Load torch, then wait: what returns is a copy, and what it returns is its job"
    # no tensor is made here: torch's own threads would not be copied, and be waited for. Those that numpy's
    # OpenBLAS starts when it is loaded are ended before a fork, and come back when they are needed.
    import numpy, safetensors.torch, torch  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:  # the tests have ended
                os._exit(0)
            line, _ = listener.accept()
            if os.fork() == 0:
                break
            line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job, files = receive(line)
    if pid := os.fork():
        watch(line, pid)
    line.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    return job


if __name__ == "__main__":
    job = wait_for_job(sys.argv[1])
    sys.argv = [job["module"], *job["args"]]
    sys.path[0] = job["cwd"]
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
