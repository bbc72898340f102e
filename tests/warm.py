"""A Python that has loaded torch once; the commands of the tests are copies of it.

Loading torch takes two to five seconds of a core, and the tests run hundreds of the library's commands. `run`
does what `subprocess.run([python, "-m", MODULE, ...])` would: another process, with its own environment,
folder, input and output, whose last word is its exit status. `stand_in` makes a program that can take
Python's place on a command line and does the same for modules and scripts; what starts several processes by
`sys.executable` finds itself there, so that all of them are copies. Within a session, a copy goes to the
process group of the program that stands in for it, and to its network, so that Ctrl-C and a pulled cable
reach it. What is read while Python or torch is loaded can't be changed afterwards, so there is one warm
Python for each such environment.
"""

import atexit, functools, json, os, runpy, select, shutil, signal, socket, struct, subprocess, sys, tempfile
import threading
from pathlib import Path

# what starts other processes: they are copies, too
LAUNCHERS = ("nanochat.runs", "nanochat.distributed", "torch.distributed.run")
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
DIGITS = 20
HERE = Path(__file__).resolve().parent
RUNS = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("nanochat.runs", run_name="__main__", alter_sys=True)
"""
LAUNCH = str(HERE / "launch.py")
SCRIPTS = (LAUNCH, str(HERE.parent / "bench" / "gpu_day.py"))  # these start other processes, too


def early(env) -> frozenset:
    names = [name for name in env if name.startswith(EARLY) and name not in NOT_EARLY]
    return frozenset((name, env[name]) for name in names)


@functools.cache
def own_folder() -> Path:
    "Where sockets and stand-ins lie; gone with this process"
    folder = tempfile.mkdtemp(prefix="warm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def program_at(address: str) -> str:
    "The program that stands in for the warm Python of an address"
    return address.replace("socket", "python")


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
        program = Path(program_at(address))
        program.write_text(STANDS_IN.format(python=sys.executable, tests=str(HERE), address=address))
        program.chmod(0o755)
        WARM[key] = address
    return WARM[key]


def tell(line, number: int):
    "Send a number; all are of one length, so that two that are read late are still two"
    line.sendall(f"{number:{DIGITS}}".encode())


def told(line) -> int:
    "The next number that was sent"
    return int(line.recv(DIGITS))


class Job:
    "A command that a warm Python's copy carries out"

    def __init__(self, address: str, files, **job):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.connect(address)
        self.same_group = in_our_session(other_end(self.line))
        words = json.dumps(job).encode()
        socket.send_fds(self.line, [len(words).to_bytes(8, "big")], files)
        self.line.sendall(words)
        self.pid = told(self.line)

    def wait(self, timeout=None) -> int:
        "Its status, as subprocess has it"
        self.line.settimeout(timeout)
        return os.waitstatus_to_exitcode(told(self.line))


def run(module: str, args: list, cwd, env: dict, stdin: str, timeout: float) -> subprocess.CompletedProcess:
    "`python -m MODULE ARGS`, its output captured as text"
    files = tempfile.TemporaryFile(), tempfile.TemporaryFile(), tempfile.TemporaryFile()
    given, out, err = files
    with given, out, err:
        given.write(stdin.encode())
        given.seek(0)
        numbers = [file.fileno() for file in files]
        job = Job(warm_python(env), numbers, command=["-m", module, *args], cwd=str(cwd), env=env)
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
    return program_at(warm_python(env))


def by_a_copy(command: list) -> bool:
    "Is this Python command line carried out by a copy?"
    match command:
        case ["-m", "nanochat.runs", *rest]:
            return rest[:1] == ["launch"]
        case ["-m", module, *_]:
            return module.startswith("nanochat.") or module in LAUNCHERS
        case ["-c", code]:  # a rehearsal's hub
            return "serve_hub" in code
        case [script, *_]:
            return script.endswith(".py")
    return False


def other_end(line) -> int:
    "The process at the other end of a socket"
    return struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def in_our_session(pid: int) -> bool:
    "Does a process belong to our session, but to another process group?"
    return os.getsid(pid) == os.getsid(0) and os.getpgid(pid) != os.getpgid(0)


def stand_in_for(python: str, address: str):
    "Carry out this process's command line, by a copy or by Python itself"
    command = sys.argv[2:] if sys.argv[1:2] == ["-u"] else sys.argv[1:]
    if command[:2] == ["-m", "nanochat.runs"] and not by_a_copy(command):
        # it needs no torch itself, and becomes a program that does
        os.execv(python, [python, "-c", RUNS, program_at(address), *command[2:]])
    if not by_a_copy(command):
        os.execv(python, [python, *sys.argv[1:]])
    job = Job(address, [0, 1, 2], command=command, cwd=os.getcwd(), env=dict(os.environ))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(job.pid, number))
    if job.same_group:  # Ctrl-C reaches the copy anyway
        signal.signal(signal.SIGINT, lambda number, frame: None)
    status = job.wait()
    if status < 0:  # ended by a signal, and so are we
        if -status != signal.SIGKILL:
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
    tell(line, pid)
    ended = os.pidfd_open(pid)
    ready, _, _ = select.select([ended, line], [], [])
    if ended not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if ended in ready:
        tell(line, status)
    os._exit(0)


def parent_of(pid: int) -> int:
    "The number of a process's parent"
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 1


def take_place(pid: int):
    "Take another process's parent and, where it can be done, its process group and its network"
    os.getppid = functools.partial(parent_of, pid)
    if in_our_session(pid):
        os.setpgid(0, os.getpgid(pid))
    if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
        import ctypes

        with open(f"/proc/{pid}/ns/net") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")


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
    take_place(other_end(line))
    line.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    return job


def carry_out(command: list, cwd: str):
    "What Python does with its command line: -m and a module, -c and its text, or a script"
    if command[0] == "-c":
        sys.argv, sys.path[0] = ["-c"], cwd
        exec(command[1], {"__name__": "__main__"})
    elif command[0] == "-m":
        sys.argv, sys.path[0] = command[1:], cwd
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = command, os.path.dirname(os.path.abspath(command[0]))
        runpy.run_path(command[0], run_name="__main__")


def status_of(work) -> int:
    "How Python would end after some work; an error is shown as Python shows it"
    try:
        work()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 255
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(status: int):
    "End as Python does, but leave the memory as it is: to take it to pieces costs 0.7 seconds of a core"
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 120
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    threads = os.environ.get("OMP_NUM_THREADS")
    job = wait_for_job(sys.argv[1])
    command = job["command"]
    if any(word in (*SCRIPTS, *LAUNCHERS) for word in command[:2]):
        sys.executable = program_at(sys.argv[1])
    if threads != (given := job["env"].get("OMP_NUM_THREADS")) and given:  # a launcher shares the cores out
        sys.modules["torch"].set_num_threads(int(given))
    end(status_of(lambda: carry_out(command, job["cwd"])))
