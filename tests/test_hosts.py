"""Two hosts without a common disk: each has its own agent of torchrun, its own base folder and, where root
may make one, its own network, in which a cable can be pulled"""

import contextlib, json, os, re, signal, socket, subprocess, sys, time
import pytest
import warm
from conftest import ROOT, TINY, Run, environment, lines_of, processes, run_module
from nanochat import runs

STEPS = 24
ARGS = ("--run", "far", *TINY, "--num_iterations", STEPS, "--save_every", 6, "--device_batch_size", 4)
NETWORKS = [f"nanochat-{os.getpid()}-{number}" for number in range(2)]
PATIENCE = 10  # seconds without a gradient, after which the others are given up


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def networks():
    "Two network namespaces, joined by a cable; else an empty list: both hosts are on this network"
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [ip("netns", "del", name) for name in NETWORKS])
        try:
            made = all(ip("netns", "add", name).returncode == 0 for name in NETWORKS)
        except OSError:
            made = False
        if not made:
            yield []
            return
        ends = [f"nc{os.getpid() % 10_000}-{number}" for number in range(2)]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(NETWORKS, ends)):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "link", "set", end, "name", "cable")
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "cable")
            for device in ("lo", "cable"):
                assert ip("-n", name, "link", "set", device, "up").returncode == 0
        yield NETWORKS


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(networks, bases, module, *args, each=1):
    "One agent of torchrun for each base folder, each with so many processes"
    port, agents = free_port(), []
    around = dict(OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu", NANOCHAT_PATIENCE=PATIENCE)
    around |= dict(GLOO_SOCKET_IFNAME="cable") if networks else {}
    for number, base in enumerate(bases):
        here = environment(base, **around)
        command = ["ip", "netns", "exec", networks[number]] if networks else []
        command += [warm.stand_in(here), "-m", "torch.distributed.run", f"--nnodes={len(bases)}"]
        command += [f"--node_rank={number}", f"--nproc_per_node={each}", f"--master_port={port}"]
        command += [f"--master_addr={'10.77.0.1' if networks else '127.0.0.1'}"]
        command += ["-m", f"nanochat.{module}", "--", *map(str, args)]
        base.mkdir(exist_ok=True)
        with open(base / "said", "w") as said:
            agents.append(subprocess.Popen(command, cwd=ROOT, env=here, stderr=said, stdout=said))
    return agents


def finish(networks, bases, module, *args, each=1):
    "Start them, and wait until all have ended well"
    for base, agent in zip(bases, start(networks, bases, module, *args, each=each)):
        assert agent.wait(200) == 0, (base / "said").read_text()[-3000:]


def cut_off(networks, base):
    "Pull the second host's cable, where it has one; or else end all that runs on it"
    if networks:
        ip("-n", networks[1], "link", "set", "cable", "down")
        return
    for pid in processes(NANOCHAT_BASE_DIR=base):
        os.kill(pid, signal.SIGKILL)


def losses(base):
    return [line["loss"] for line in lines_of(Run(base, "far").dir, "base")]


@pytest.mark.skipif(sys.platform != "linux", reason="finds a host's processes in /proc")
def test_a_host_is_cut_off_and_another_takes_its_place(tmp_path, networks):
    alone, first, second, third = (tmp_path / name for name in ("alone", "first", "second", "third"))
    run_module("pretrain", *ARGS, base=alone)
    agents = start(networks, (first, second), "pretrain", *ARGS)
    log = Run(first, "far").dir / "log.jsonl"
    until = time.time() + 120
    while time.time() < until and not (log.exists() and log.read_text().count('"base"') >= 8):
        assert agents[0].poll() is None, (first / "said").read_text()[-3000:]
        time.sleep(0.01)
    cut_off(networks, second)
    assert agents[0].wait(90) != 0, "the host that is left notices"
    assert "goes on from the last checkpoint" in (first / "said").read_text()
    agents[1].kill()
    agents[1].wait()
    if networks:
        ip("-n", networks[1], "link", "set", "cable", "up")
    assert len(losses(first)) < STEPS
    assert not (Run(second, "far").dir / "log.jsonl").exists(), "only the first host keeps a log"
    # its place is taken by a host that has never seen the run, and each now has two processes
    finish(networks, (first, third), "pretrain", *ARGS, each=2)
    assert losses(first) == pytest.approx(losses(alone), rel=2e-4)
    assert [line["step"] for line in lines_of(Run(first, "far").dir, "base")] == list(range(1, STEPS + 1))
    run = Run(third, "far").dir
    settings = [json.loads((Run(base, "far").dir / "settings.json").read_text()) for base in (first, third)]
    assert settings[0] == settings[1] and (run / "tokenizer" / "tokenizer.json").exists()
    brought = [path.name for path in (run / "base").iterdir()]
    assert len(brought) == 1 and brought[0].startswith("step_"), "what it went on from, and nothing since"
    # the next step needs weights that only the first host has
    scored = ("evaluate", "--run", "far", "--stage", "base")
    finish(networks, (first, second), *scored)
    run_module(*scored, base=alone)
    summaries = [(base / "runs/far/results/summary.json").read_text() for base in (first, alone)]
    bits = [json.loads(summary)["bpb"]["base"] for summary in summaries]
    assert bits[0] == pytest.approx(bits[1], rel=1e-3)


# ---- the recipes of chapter 11, with stand-ins for ssh, Slurm and what they start ----

STAND_INS = dict(
    python='case "$*" in "-m nanochat.runs done big $DONE") exit 0 ;; *"runs done big "*) exit 10 ;; esac\n'
    'echo "alone $*" >> $LOG',
    torchrun='echo "together $*" >> $LOG; case "$*" in *"$FAILS"*) exit 1 ;; esac',
    ssh='[ "$1" = -tt ] && cd && bash -c "${*:3}"',
    srun='for SLURM_NODEID in 0 1; do SLURM_NODEID=$SLURM_NODEID "$@" || status=1; done; exit ${status-0}',
    scontrol='case $1 in show) echo gpu-a; echo gpu-b ;; *) echo "again $*" >> $LOG ;; esac',
)


@pytest.fixture
def recipe(tmp_path):
    "Chapter 11's scripts in a home of their own; runs one of them: its status, and what it has started"
    cells = json.loads((ROOT / "nbs" / "11_distributed.ipynb").read_text())["cells"]
    blocks = re.findall(r"```bash\n(.*?)```", "\n".join("".join(cell["source"]) for cell in cells), re.S)
    home, bin = tmp_path / "nanochat", tmp_path / "bin"
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "activate").write_text(f"PATH={bin}:$PATH\n")
    bin.mkdir()
    for name, work in STAND_INS.items():
        (bin / name).write_text(f"#!/bin/bash\n{work}\n")
        (bin / name).chmod(0o755)
    for name in ("road.sh", "over_ssh.sh", "over_slurm.sh"):
        (home / name).write_text(next(block for block in blocks if re.search(rf"^# {name}", block, re.M)))

    def walk(name, **env):
        log = tmp_path / "log"
        log.write_text("")
        around = dict(HOME=tmp_path, LOG=log, DONE="", FAILS="nothing", SLURM_NNODES=2, SLURM_JOB_ID=7)
        around = {**os.environ, **{key: str(value) for key, value in {**around, **env}.items()}}
        around["PATH"] = f"{bin}:{around['PATH']}"
        done = subprocess.run(["bash", home / name], env=around, capture_output=True, text=True, timeout=60)
        return done.returncode, log.read_text().splitlines()

    return walk


@pytest.mark.parametrize("name", ["over_ssh.sh", "over_slurm.sh"])
def test_the_recipes_walk_the_whole_road_on_every_host(recipe, name):
    steps = re.findall(r"^  step (\w+) +([^#\n]*)", (ROOT / "speedrun.sh").read_text(), re.M)
    status, log = recipe(name, DONE="tokenizer")
    assert status == 0
    for step, words in steps:
        words = " ".join(words.split()).partition(" ${GIVEN")[0]
        if step == "tokenizer":
            continue  # its work is there
        if words.split()[0] in runs.ALONE or words.endswith("--stage tokenizer"):
            tier = " --tier full" if step == "settings" else ""
            assert log.pop(0) == f"alone -m nanochat.{words}{tier} --run big"
            continue
        module, _, options = words.partition(" ")
        started = sorted(" ".join(log.pop(0).split()) for _ in range(2))
        for number, line in enumerate(started):
            assert line == (
                f"together --nnodes 2 --node_rank {number} --nproc_per_node 8 --master_addr gpu-a "
                f"-m nanochat.{module} -- {options + ' ' if options else ''}--run big"
            )
    assert log == []


def test_a_recipe_ends_with_its_step_and_slurm_hands_in_again(recipe):
    on_the_second = "node_rank 1 --nproc_per_node 8 --master_addr gpu-a -m nanochat.pretrain"
    for name in ("over_ssh.sh", "over_slurm.sh"):
        status, log = recipe(name, FAILS=on_the_second)
        assert status == 1 and "nanochat.pretrain" in log[-1] and len(log) == 5
    status, log = recipe("over_slurm.sh", FAILS="nanochat.sft", SECONDS=14000)
    assert status == 1 and log[-1] == "again requeue 7" and "nanochat.sft" in log[-2]
