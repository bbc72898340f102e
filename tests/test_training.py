"Training: batches that are what the log says, numbers that are numbers, plans that can be kept"

import json, subprocess, sys
from dataclasses import replace
import pytest, torch
from conftest import ROOT, environment, leftovers, lines_of, one_line, refused, run_module, torchrun
from nanochat.runs import UserError
from nanochat.runtime import Run
from nanochat.scaling import make_plan, micro_batches

# --- batches never shrink ---


def test_micro_batches_make_up_the_step_exactly():
    for rows in range(1, 65):
        for device_rows in range(1, 17):
            for world in range(1, 9):
                if rows % world:
                    with pytest.raises(UserError) as e:
                        micro_batches(rows, device_rows, world)
                    assert all(
                        str(n) in str(e.value) for n in (rows, device_rows, world)
                    ) and "\n" not in str(e.value)
                    continue
                size, count = micro_batches(rows, device_rows, world)
                assert size * count * world == rows and 1 <= size <= device_rows
                assert not any(rows % (larger * world) == 0 for larger in range(size + 1, device_rows + 1)), (
                    "the largest"
                )


TRAINED = """
import json, sys
from pathlib import Path
from nanochat import pretrain
from nanochat.runs import rank
from nanochat.scaling import open_run
seen, step = [], pretrain.train_step
def counting(model, opt, parts):
    seen.append(sum(ids.numel() for ids, _, _ in parts))
    return step(model, opt, parts)
pretrain.train_step = counting
base, name, rows, at_once = sys.argv[1:]
opened = open_run(name, tier="smoke", dtype="float32", num_iterations=2, save_every=1,
                  total_batch_size=int(rows)*128, device_batch_size=int(at_once))
with opened.at_work() as run:
    pretrain.pretrain(run)
Path(base, f"{name}-{rank()}.json").write_text(json.dumps(seen))
"""


def trained(base, name, processes, rows, at_once):
    "Tokens that each process computed on in each of two steps"
    script = base / "trained.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(TRAINED)
    done = torchrun(processes, script, base, name, rows, at_once, base=base)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((base / f"{name}-{r}.json").read_text()) for r in range(processes)]


@pytest.mark.slow
def test_what_the_log_counts_was_trained(tmp_path):
    "24 rows, 8 at a time: by 1, 2 and 4 processes"
    losses = []
    for processes in (1, 2, 4):
        seen = trained(tmp_path, f"p{processes}", processes, 24, 8)
        log = lines_of(tmp_path / "runs" / f"p{processes}", "base")
        assert [sum(step) for step in zip(*seen)] == [l["tokens"] for l in log] == [24 * 128] * 2
        result = json.loads((tmp_path / "runs" / f"p{processes}" / "results" / "base.json").read_text())
        assert result["tokens"] == 2 * 24 * 128
        losses.append([l["loss"] for l in log])
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in zip(losses, losses[1:])), (
        "and it is the same batch"
    )


def test_processes_that_cannot_share_a_step_are_refused_before_anything_is_written(tmp_path):
    for processes, args, numbers in ((8, ("--depth", 20), (4, 8)), (3, ("--tier", "smoke"), (8, 3))):
        done = torchrun(processes, "-m", "nanochat.pretrain", *args, base=tmp_path)
        refused(done, *numbers)
        assert not list(tmp_path.rglob("settings.json")) and not leftovers(tmp_path)


# --- nothing that is no number is published ---

POISONED = """
import sys, torch
from nanochat import pretrain, sft, grpo
from nanochat.distributed import MuonAdamW
from nanochat.runs import rank
module, name, at, sick = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
step, zero_grad, done = MuonAdamW.step, MuonAdamW.zero_grad, []
def overflowing(self):
    if self.t+1 == at and rank() == sick:
        self.groups[0]["params"][0].grad[0, 0] = float("inf")
    return step(self)
def leaving_an_infinity(self):     # reinforcement may take no step at all, where all answers earn the same
    done.append(1)
    if len(done) == at:
        self.groups[0]["params"][0].data[0, 0] = float("inf")
    return zero_grad(self)
if module == "grpo":
    MuonAdamW.zero_grad = leaving_an_infinity
else:
    MuonAdamW.step = overflowing
options = ["--tier", "smoke", "--dtype", "float32", "--num_iterations", "6", "--save_every", "2"]
args = dict(pretrain=options, mid=["--stage", "mid"], sft=["--stage", "sft"], grpo=[])[module]
sys.argv = [module, "--run", name, *args]
dict(pretrain=pretrain, mid=sft, sft=sft, grpo=grpo)[module].main()
"""


def poison(base, module, name, at, processes=1, sick=0):
    "Train with one infinite gradient in step `at` of process `sick`, while the loss of that step is a number"
    script = base / "poisoned.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(POISONED)
    args = (script, module, name, at, sick)
    if processes > 1:
        return torchrun(processes, *args, base=base)
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=environment(base),
        capture_output=True,
        text=True,
        timeout=240,
    )


def finite(folder):
    from safetensors.torch import load_file

    return all(t.isfinite().all() for f in folder.glob("*.safetensors") for t in load_file(f).values())


@pytest.mark.slow
def test_an_overflow_at_a_saving_step_costs_one_interval(tmp_path):
    straight = subprocess.run(
        [
            sys.executable,
            "-m",
            "nanochat.pretrain",
            "--run",
            "straight",
            "--tier",
            "smoke",
            "--dtype",
            "float32",
            "--num_iterations",
            "6",
            "--save_every",
            "2",
        ],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert straight.returncode == 0, straight.stderr
    for processes, name in ((1, "one"), (2, "two")):
        done = poison(
            tmp_path, "pretrain", name, 4, processes, sick=processes - 1
        )  # its loss is finite: it was computed before
        stage = tmp_path / "runs" / name / "base"
        refused(done, "base: after step 4", "infinity or a NaN", "step_2")
        assert [p.name for p in stage.iterdir()] == ["step_2"] and finite(stage / "step_2")
    assert lines_of(tmp_path / "runs" / "one", "base")[-1]["step"] == 4
    again = run_module("pretrain", "--run", "one", base=tmp_path)
    weights = [
        (tmp_path / "runs" / name / "base" / "step_6" / "model.safetensors").read_bytes()
        for name in ("straight", "one")
    ]
    assert again.returncode == 0 and weights[0] == weights[1], "and ends as if nothing had been"


def test_an_overflow_in_the_first_interval_leaves_no_checkpoint(tmp_path):
    done = poison(tmp_path, "pretrain", "first", 2)
    one_line(done, "base: after step 2", "from the beginning", status=1)
    assert not list(tmp_path.rglob("step_*")) and not leftovers(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage, module, at", [("mid", "mid", 20), ("sft", "sft", 40), ("rl", "grpo", 3)])
def test_the_later_stages_publish_no_poison_either(smoke, tmp_path, stage, module, at):
    run = smoke.before(stage, tmp_path)
    done = poison(tmp_path, module, run.name, at)
    one_line(done, f"{stage}: after step {at}", "infinity or a NaN", status=1)
    found = list((run.dir / stage).glob("step_*"))
    assert all(finite(p) for p in found) and not (run.dir / stage / f"step_{at}").exists()
    assert not (run.dir / "results" / f"{stage}.json").exists()


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("where", ["a weight", "a running mean", "a row of Muon's"])
def test_every_kind_of_no_number_is_seen(tmp_path, number, where):
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.gpt import GPT, GPTConfig, MODERN, save_model
    from nanochat.pretrain import Training, save_checkpoint

    model = GPT(GPTConfig(vocab_size=300, seq_len=16, n_layer=2, n_embd=32, **MODERN))
    opt = MuonAdamW(param_groups(model))
    save_checkpoint(tmp_path, "base", Training(model, opt, 1))
    if where == "a weight":
        model.backout_scale.data[0] = number
    if where == "a running mean":
        opt.state["wte.weight"][1][7, 3] = number
    if where == "a row of Muon's":
        opt.parts[0].row_mean_square[-1, -1] = number
    with pytest.raises(UserError, match="infinity or a NaN"):
        save_checkpoint(tmp_path, "base", Training(model, opt, 2))
    assert [p.name for p in (tmp_path / "base").iterdir()] == ["step_1"]
    if where == "a weight":
        with pytest.raises(UserError, match="backout_scale"):
            save_model(model, tmp_path / "sft" / "step_1")
        assert not (tmp_path / "sft").exists()


# --- the run's dtype is everybody's ---


def matmul_dtypes(work):
    "The dtypes of all matrix products that some work computes"
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if any(word in str(func) for word in ("mm", "matmul", "linear", "attention")):
                seen.update(a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point())
            return func(*args, **(kwargs or {}))

    with Watch():
        work()
    return seen


def tiny(dtype=torch.float32, **over):
    from nanochat.gpt import GPT, GPTConfig, MODERN

    torch.manual_seed(0)
    return GPT(
        GPTConfig(**{**dict(vocab_size=300, seq_len=32, n_layer=3, n_embd=32, **MODERN), **over}), dtype
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_multiplies_in_the_dtype_of_its_run(dtype):
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.pretrain import train_step
    from nanochat.sft import stage_optimizer

    model, x = tiny(dtype), torch.randint(300, (2, 33))
    for opt in (MuonAdamW(param_groups(model)), stage_optimizer(model, make_plan("laptop"), 1.0)):
        assert matmul_dtypes(lambda: train_step(model, opt, [(x[:, :-1], x[:, 1:], None)])) == {dtype}


@pytest.mark.parametrize("scale", ["resid_scale", "x0_scale", "smear_scale", "backout_scale"])
def test_a_learned_scale_is_not_rounded_to_the_streams_dtype(scale):
    "In bfloat16 1.003 is 1; as a scale it must differ from 1, and be as near to float32's answer as 1 is"
    model, ids = tiny(torch.bfloat16), torch.randint(300, (4, 32), generator=torch.Generator().manual_seed(1))
    for p in model.parameters():
        p.data = torch.randn_like(p) * (0.2 if p.ndim == 2 else 0.7)
    out, error = {}, {}
    with torch.no_grad():
        for value in (1.0, 1.003):
            getattr(model, scale).fill_(value)
            model.dtype = torch.float32
            exact = model.hidden(ids)
            model.dtype = torch.bfloat16
            out[value] = model.hidden(ids)
            error[value] = (out[value].float() - exact).norm() / exact.norm()
    assert (out[1.0] != out[1.003]).any()
    assert error[1.003] < 1.3 * error[1.0]


def test_the_gradient_of_a_scale_is_float32s():
    model, ids = tiny(torch.bfloat16), torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(1))
    for p in model.parameters():
        p.data = torch.randn_like(p) * (0.2 if p.ndim == 2 else 0.7)
    grads = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.dtype = dtype
        model(ids[:, :-1], ids[:, 1:]).backward()
        grads[dtype] = torch.cat(
            [getattr(model, s).grad for s in ("resid_scale", "x0_scale", "smear_scale", "backout_scale")]
        )
        model.zero_grad()
    assert grads[torch.bfloat16].dtype == torch.float32
    off = (grads[torch.bfloat16] - grads[torch.float32]).norm() / grads[torch.float32].norm()
    assert off < 0.1, off


# --- plans that can be kept ---

BAD_SIZES = (
    [("depth", v) for v in (0, -1, 257, 10**6, 10**20)]
    + [("seed", v) for v in (2**63, 10**22, -(10**22))]
    + [("vocab_size", v) for v in (0, 1, 200, 264, 99_999_999, 10**20)]
    + [("seq_len", v) for v in (0, 1, 32, 63, 99_999_999, 10**20)]
    + [
        (k, v)
        for k in ("num_iterations", "save_every", "device_batch_size", "total_batch_size")
        for v in (0, -3, 10**20)
    ]
    + [("total_batch_size", 7), ("total_batch_size", 1000)]
)


@pytest.mark.parametrize("name, value", BAD_SIZES)
@pytest.mark.parametrize("tier", ["smoke", "laptop"])
def test_sizes_that_nobody_can_mean_are_refused_in_one_line(base, tier, name, value):
    from nanochat.scaling import open_run

    for make in (lambda: make_plan(tier, **{name: value}), lambda: open_run(tier=tier, **{name: value})):
        with pytest.raises(UserError) as e:
            make()
        assert (
            name in str(e.value)
            and str(value) in str(e.value)
            and "\n" not in str(e.value)
            and len(str(e.value)) < 250
        )
    assert not base.exists()


def test_a_refused_plan_leaves_nothing(base):
    "Through the module, with the longest running of them"
    for module, word, *args in (
        ("pretrain", "depth", "--depth", 10**20),
        ("scaling", "64 is the smallest", "--seq_len", 32),
        ("scaling", "GB", "--depth", 256, "--vocab_size", 1 << 20),
    ):
        one_line(
            run_module(module, "--tier", "smoke", *args, base=base, check=False, timeout=60), word, status=1
        )
        assert not base.exists()


def test_sizes_at_the_edge_are_taken(base):
    from nanochat.scaling import SHORTEST_ROW, SMALLEST_VOCABULARY, open_run

    assert (SHORTEST_ROW, SMALLEST_VOCABULARY) == (64, 265)
    for n, given in enumerate(
        (
            dict(seq_len=64),
            dict(vocab_size=265),
            dict(seed=2**63 - 1),
            dict(seed=-(2**63)),
            dict(depth=1),
            dict(num_iterations=1, save_every=1),
        )
    ):
        assert open_run(f"edge{n}", tier="smoke", **given).folder.name == f"edge{n}"
        torch.manual_seed(given.get("seed", 0))


@pytest.mark.parametrize("vocab_size", [265, 512])
def test_the_shortest_row_holds_questions_of_every_exam(vocab_size):
    "With 24 tokens for an answer; in half of it one exam has hardly any"
    from itertools import islice
    from nanochat.chat import render_prompt
    from nanochat.corpus import documents
    from nanochat.scaling import SHORTEST_ROW
    from nanochat.tasks import SCORED, world_tasks
    from nanochat.tokenizer import Tokenizer

    tok, tasks = Tokenizer.train(islice(documents("world"), 500), vocab_size), world_tasks(make_plan("smoke"))
    fits = {}
    for name in SCORED:
        lengths = [len(render_prompt(tok, tasks[name].prompt(it))) for it in tasks[name].test(100)]
        fits[name] = [
            sum(n + 24 <= 2 * T for n in lengths) / len(lengths) for T in (SHORTEST_ROW // 2, SHORTEST_ROW)
        ]
    print(fits)
    assert all(at > 0 for _, at in fits.values()) and fits["word_problems"][0] == 0


def test_the_plan_counts_the_model_that_its_tier_trains():
    from nanochat.gpt import GPT, flops_per_token, n_params
    from nanochat.scaling import (
        PLANNED,
        TIERS,
        all_params,
        config_for,
        count_params,
        gpu_bytes,
        kept_for_backward,
        matrix_params,
        scale_plan,
    )

    assert all(PLANNED[tier]["switches"] == TIERS["laptop"].switches for tier in PLANNED)
    modern, classic = scale_plan(20, **PLANNED["full"]), scale_plan(20, switches={})
    assert (round(modern.params / 1e6), round(classic.params / 1e6)) == (1400, 561)
    assert modern.tokens == classic.tokens, "tables do not ask for text"
    for planned, switches in ((modern, PLANNED["full"]["switches"]), (classic, {})):
        with torch.device("meta"):
            model = GPT(config_for(20, modern=False, **switches), torch.bfloat16)
        assert planned.params == n_params(model)[0] == sum(planned.parts.values())
        assert planned.flops == flops_per_token(model) * planned.tokens
        assert 12 * planned.params / 8 / 2**30 < planned.gib_per_gpu < 80e9 * 0.9 / 2**30 and planned.fits
        assert planned.device_rows * planned.micro_batches * 8 * 2048 == 524288
    for depth in range(1, 13):
        for V in (265, 1000):
            c = config_for(depth, V, 64, n_embd=32 * depth, n_head=2)
            with torch.device("meta"):
                assert (all_params(c), matrix_params(c)) == n_params(GPT(c))
            assert sum(count_params(c).values()) == all_params(c)
    assert gpu_bytes(config_for(20), 8) + kept_for_backward(config_for(20), 32) > 80e9, (
        "32 rows of the modern depth 20 do not fit"
    )


# --- a peak that nobody knows ---


def test_a_device_without_a_known_peak_has_no_share_of_it(tmp_path, monkeypatch):
    from nanochat import pretrain

    monkeypatch.setattr(pretrain, "peak_flops", lambda *args: None)
    model = tiny()
    opt = pretrain.MuonAdamW(pretrain.param_groups(model))
    plan = make_plan("smoke", dtype="float32", num_iterations=1)
    run = Run(tmp_path, replace(plan, base=replace(plan.base, rows=2, device_rows=2)), torch.device("cpu"))
    pretrain.save_checkpoint(tmp_path, "base", pretrain.Training(model, opt, 1, 2.0), loss=1.0, seed=0)
    pretrain.close_stage(run, "base", model)
    result = json.loads((tmp_path / "results" / "base.json").read_text())
    assert result["mfu"] is None and result["peak_flops"] is None and result["tokens_per_second"] == 32.0


# --- the same seed, the same loss ---

KEPT_TRACE = [  # 20 steps of the smoke tier in float32: whoever changes it on purpose records it again
    6.23833, 6.04797, 5.75705, 5.25151, 4.92356, 4.45196, 4.03681, 4.21894, 4.42546, 3.41241,
    4.12528, 3.65328, 3.67750, 3.69194, 3.16616, 3.80729, 3.62709, 2.95739, 3.31972, 3.50728,
]  # fmt: skip


def test_the_losses_of_the_smoke_tier_are_the_recorded_ones(tmp_path):
    "A change of code alone may not move them; 1e-3 is what another machine's rounding may"
    args = ("--run", "kept", "--tier", "smoke", "--dtype", "float32", "--num_iterations", 20)
    run_module("pretrain", *args, base=tmp_path)
    losses = [line["loss"] for line in lines_of(tmp_path / "runs" / "kept", "base")]
    assert losses == pytest.approx(KEPT_TRACE, abs=1e-3)
