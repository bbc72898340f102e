"Two processes, one batch: the same training as one process, and checkpoints that do not tell who wrote them"

import json, shutil, socket, subprocess, sys, time
import pytest
import torch.distributed as dist
from conftest import ROOT, Run, environment, lines_of, run_module, torchrun
from nanochat.distributed import param_groups, step_messages
from nanochat.gpt import GPT, GPTConfig
from nanochat.pretrain import STOPPED
from nanochat.runs import read_plan
from nanochat.scaling import model_config

STEPS = 12
ARGS = [
    "--tier",
    "smoke",
    "--dtype",
    "float32",
    "--num_iterations",
    STEPS,
    "--save_every",
    6,
    "--device_batch_size",
    4,
]


def pretrain(base, name, processes, **env):
    "Pretrain with one process, or with several under torchrun, the total batch being the same"
    if processes == 1:
        run_module("pretrain", "--run", name, *ARGS, base=base)
    else:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                f"--nproc_per_node={processes}",
                f"--master_port={port}",
                "-m",
                "nanochat.pretrain",
                "--",  # without the --, torchrun takes --run for its own --run-path
                "--run",
                name,
                *map(str, ARGS),
            ],
            cwd=ROOT,
            env=environment(base, OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu"),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return Run(base, name)


def losses(run):
    return [l["loss"] for l in lines_of(run.dir, "base")]


def half(run, name):
    "A copy of a run as it was at its first checkpoint"
    copy = run.dir.parent / name
    shutil.copytree(run.dir, copy)
    shutil.rmtree(copy / "base" / f"step_{STEPS}")
    (copy / "results" / "base.json").unlink()
    return Run(run.base, name)


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    base = tmp_path_factory.mktemp("dist")
    return pretrain(base, "one", 1), pretrain(base, "two", 2)


def close(a, b):
    assert len(a) == len(b) == STEPS
    worst = max(abs(x - y) / x for x, y in zip(a, b))
    print(f"largest relative difference of a loss: {worst:.1e}")
    assert worst < 2e-4, (a, b)  # float32 sums in another order, grown over a dozen steps


@pytest.mark.slow
def test_two_processes_end_at_the_loss_of_one(one_and_two):
    one, two = one_and_two
    close(losses(one), losses(two))
    assert losses(one)[-1] < losses(one)[0], "and it learns"
    a, b = (json.loads((r.last("base") / "meta.json").read_text()) for r in one_and_two)
    assert {k: v["size"] for k, v in a["files"].items() if k.endswith("safetensors")} == {
        k: v["size"] for k, v in b["files"].items() if k.endswith("safetensors")
    }
    assert [p.name for p in sorted(two.last("base").iterdir())] == [
        p.name for p in sorted(one.last("base").iterdir())
    ]


@pytest.mark.slow
def test_each_resumes_the_other(one_and_two):
    one, two = one_and_two
    a, b = half(one, "one-then-two"), half(two, "two-then-one")
    pretrain(one.base, a.name, 2)
    pretrain(one.base, b.name, 1)
    for run in (a, b):
        close(losses(run), losses(one))
        assert [l["step"] for l in lines_of(run.dir, "base")] == list(range(1, STEPS + 1))


def test_all_processes_ask_the_same_of_each_other(tmp_path):
    "Through steps, saving, a stop in one of them, a resumed start and evaluation; and bytes as foretold"
    done = torchrun(2, ROOT / "tests" / "recorded.py", base=tmp_path, RECORD=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    names = [name for name, *_ in first]
    assert f"stopped with {STOPPED}" in names and names.count("step ends") == 18
    # what the optimizer sends, against the closed form; a mean is a sum that is divided afterwards
    begin, end = names.index("step begins"), names.index("step ends")
    kinds = dict(all_reduce="mean", reduce_scatter="mean", all_gather="gather")
    asked = [("_".join(name.split("_")[:2]), size) for name, size, *_ in first[begin + 1 : end]]
    sent = [(kinds[name], size) for name, size in asked]
    plan = read_plan(tmp_path / "runs" / "recorded")
    groups = param_groups(GPT(model_config(plan)))
    assert sent == step_messages(groups, 2)
    means = [size for kind, size in sent if kind == "mean"]
    newest = "single" if hasattr(dist, "reduce_scatter_single") else "tensor"
    assert means[0] == max(means) and f"reduce_scatter_{newest}" in names[begin:end]
    # and what is said besides is small: the number of targets, two answers, the loss
    between = first[names.index("step ends") + 1 : names.index("step begins", end)]
    assert between and all(size <= 8 for _, size, *_ in between), between


def test_the_kept_timeline_is_one_of_real_steps():
    "Chapter 11 and its lecture draw it: who steps what, what travels meanwhile, and what its figures say"
    kept = json.loads((ROOT / "bench" / "results" / "timeline.json").read_text())
    sent = step_messages(param_groups(GPT(GPTConfig(**kept["shape"]))), kept["processes"])
    assert sum(kept["gloo"].values()) == len(sent)
    assert set(kept["ways"]) == {"together", "one after the other"}

    def tenths(spans):
        "Tenths of a millisecond in which a span is open"
        ends = ((round(10 * start), round(10 * (start + length))) for *_, start, length in spans)
        return {t for start, end in ends for t in range(start, end)}

    for way, lap in kept["ways"].items():
        messages = []
        for process, figures in enumerate(lap["figures"]):
            own = [span for span in lap["spans"] if span[0] == process]
            steps, waits, sends = ([s for s in own if s[1] == kind] for kind in ("step", "wait", "send"))
            messages.append(sorted(s[1:] for s in own if s[1] in ("reduce", "gather")))
            assert [s[2] for s in steps] == list(range(len(kept["groups"]))), "each owns some of every group"
            assert len(messages[-1]) == len(sent)
            both = tenths(steps) & tenths(s for s in own if s[1] in ("reduce", "gather"))
            found = dict(steps=tenths(steps), waits=tenths(waits), steps_during_messages=both)
            for name, moments in found.items():
                assert len(moments) / 10 == pytest.approx(figures[name], rel=0.02, abs=1), (way, name)
            first = min(start for *_, start, _ in steps)
            if way == "together":  # everything is on its way before the first step
                assert max(start + length for *_, start, length in sends) <= first
            assert bool(both) == (way == "together")
        # a message is there only when every process has taken it up: so the clocks agree, too
        early = 0
        for same in zip(*messages):
            begins, lengths = zip(*(span[2:] for span in same))
            early += min(map(sum, zip(begins, lengths))) < max(begins) - 0.5
        assert early <= len(sent) / 10, (way, early)
        assert lap["milliseconds"] in lap["laps"] and len(lap["laps"]) >= 5


@pytest.mark.slow
def test_several_processes_that_do_not_divide_the_batch_are_told(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node=3",
            "-m",
            "nanochat.pretrain",
            "--",
            "--run",
            "three",
            *map(str, ARGS),
        ],
        cwd=ROOT,
        env=environment(tmp_path, OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and "error: " in done.stderr and "3" in done.stderr


def gone(pid):
    "Has a process ended? One that nobody has waited for yet has"
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="other systems can't tell a process of its parent's end")
def test_workers_do_not_outlive_their_launcher(tmp_path):
    "Killed so that it can tell nobody, it still takes them along"
    work = f"import os, time; f = open({str(tmp_path)!r}+'/'+os.environ['RANK'], 'w', 1)"
    work += "; print(os.getpid(), file=f); time.sleep(99)"
    code = f"from nanochat.distributed import launch; launch(3, ['-c', {work!r}])"
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment())
    until = time.time() + 60
    while time.time() < until and sum(bool(f.read_text()) for f in tmp_path.iterdir()) < 3:
        time.sleep(0.05)
    workers = [int(f.read_text()) for f in tmp_path.iterdir()]
    assert len(workers) == 3 and not any(map(gone, workers))
    launcher.kill()
    launcher.wait()
    while time.time() < until and not all(map(gone, workers)):
        time.sleep(0.05)
    assert all(map(gone, workers))


def test_which_steps_are_one_process_s_work(monkeypatch):
    "By the stage, and not because a run is called so; and the rehearsal's hub is behind no proxy"
    from nanochat import runs

    asked = []
    monkeypatch.setattr(runs, "become", lambda command, **more: asked.append(command[2:]) or sys.exit())
    monkeypatch.setenv("GPUS", "8")
    alone, shared = ["evaluate", "--stage", "tokenizer", "--run", "a"], ["pretrain", "--run", "tokenizer"]
    for name, *given in (alone, shared):
        with pytest.raises(SystemExit):
            runs.launch(f"nanochat.{name}", given)
    assert asked[0][0] == "nanochat.evaluate"
    assert asked[1][:4] == ["nanochat.distributed", "--processes", "8", "pretrain"]
    before = dict(NANOCHAT_BASE_DIR="/x", NANOCHAT_MIRROR="", NANOCHAT_DEVICE="cpu")
    before |= dict(no_proxy="a.b", NO_PROXY="")
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runs, "start_hub", lambda: "http://127.0.0.1:9")
    runs.rehearse()
    assert (runs.os.environ["no_proxy"], runs.os.environ["NO_PROXY"]) == ("a.b,127.0.0.1", "127.0.0.1")
    assert runs.os.environ["NANOCHAT_BASE_DIR"] == "/x/rehearsal"
