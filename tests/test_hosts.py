"""Two hosts without a common disk: each has its own agent of torchrun, its own base folder and, where root
may make one, its own network, in which a cable can be pulled"""

import contextlib, json, os, socket, subprocess, sys, time
import pytest
from conftest import ROOT, TINY, Run, environment, lines_of, run_module

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


def start(networks, bases, module, *args):
    "One agent of torchrun for each base folder, each with one process"
    port, agents = free_port(), []
    around = dict(OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu", NANOCHAT_PATIENCE=PATIENCE)
    around |= dict(GLOO_SOCKET_IFNAME="cable") if networks else {}
    for number, base in enumerate(bases):
        command = ["ip", "netns", "exec", networks[number]] if networks else []
        command += [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(bases)}"]
        command += [f"--node_rank={number}", "--nproc_per_node=1", f"--master_port={port}"]
        command += [f"--master_addr={'10.77.0.1' if networks else '127.0.0.1'}"]
        command += ["-m", f"nanochat.{module}", "--", *map(str, args)]
        base.mkdir(exist_ok=True)
        with open(base / "said", "w") as said:
            agents.append(
                subprocess.Popen(command, cwd=ROOT, env=environment(base, **around), stderr=said, stdout=said)
            )
    return agents


def finish(networks, bases, module, *args):
    "Start them, and wait until all have ended well"
    for base, agent in zip(bases, start(networks, bases, module, *args)):
        assert agent.wait(200) == 0, (base / "said").read_text()[-3000:]


def cut_off(networks, agent):
    "Pull the second host's cable, where it has one; then, or else, end all that runs on it"
    if networks:
        ip("-n", networks[1], "link", "set", "cable", "down")
        return
    with open(f"/proc/{agent.pid}/task/{agent.pid}/children") as file:
        workers = [int(pid) for pid in file.read().split()]
    for pid in (agent.pid, *workers):
        os.kill(pid, 9)


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
    cut_off(networks, agents[1])
    assert agents[0].wait(90) != 0, "the host that is left notices"
    assert "goes on from the last checkpoint" in (first / "said").read_text()
    agents[1].kill()
    agents[1].wait()
    if networks:
        ip("-n", networks[1], "link", "set", "cable", "up")
    assert len(losses(first)) < STEPS
    assert not (Run(second, "far").dir / "log.jsonl").exists(), "only the first host keeps a log"
    # its place is taken by a host that has never seen the run
    finish(networks, (first, third), "pretrain", *ARGS)
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
