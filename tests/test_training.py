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
def counting(model, opt, parts, *more):
    seen.append(sum(ids.numel() for ids, _, _ in parts))
    return step(model, opt, parts, *more)
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


# --- float16: the loss is multiplied, and a step with an infinity is skipped ---


def by_heart(training, steps):
    "Losses of some steps on one small batch"
    from nanochat.pretrain import train_step

    ids = torch.randint(300, (2, 33), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(steps):
        batch = (ids[:, :-1], ids[:, 1:], None)
        losses.append(train_step(training.model, training.opt, [batch], training.loss_scale))
        training.step += 1
    return losses


def begun(dtype, factor=None):
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.pretrain import Training

    model = tiny(dtype)
    training = Training(model, MuonAdamW(param_groups(model)))
    if factor:
        training.loss_scale.scale = factor
    return training


def test_float16_learns_as_float32_does():
    "Also from a factor that is far too high: some steps are skipped in search of a better one"
    full, half, lost = begun(torch.float32), begun(torch.float16), begun(torch.float16, 2.0**40)
    assert full.loss_scale is None and half.loss_scale.scale == 2.0**16
    want = by_heart(full, 25)
    assert by_heart(half, 25) == pytest.approx(want, abs=0.05) and want[-1] < want[0] - 1
    found = by_heart(lost, 45)
    moved = [loss for loss, after in zip(found, found[1:]) if loss != after]  # a skipped step changes nothing
    skipped = len(found) - 1 - len(moved)
    assert 5 < skipped < 30 and lost.loss_scale.scale == 2.0 ** (40 - skipped)
    assert moved[:25] == pytest.approx(want[: len(moved)], abs=0.05)


def test_a_checkpoint_goes_on_with_its_factor(tmp_path):
    from nanochat.pretrain import restore, save_checkpoint

    straight = by_heart(begun(torch.float16, 2.0**40), 12)
    first = begun(torch.float16, 2.0**40)
    losses = by_heart(first, 6)
    save_checkpoint(tmp_path, "base", first, seed=0)
    fresh = begun(torch.float16)
    again = restore(tmp_path / "base" / "step_6", fresh.model, fresh.opt)
    assert again.loss_scale.state_dict() == first.loss_scale.state_dict()
    assert losses + by_heart(again, 6) == straight


OVERFLOW = """
import json, sys
from pathlib import Path
import torch
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.precision import LossScale
from nanochat.pretrain import take_step
from nanochat.runs import rank
from nanochat.runtime import end_dist, init_dist
init_dist(torch.device("cpu"))
torch.manual_seed(0)
model = GPT(GPTConfig(vocab_size=300, seq_len=16, n_layer=2, n_embd=32, **MODERN), torch.float16)
opt, scale, moved = MuonAdamW(param_groups(model)), LossScale(2.0**10), []
ids = torch.randint(300, (2, 17))
for step in range(4):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scale(model(ids[:, :-1], ids[:, 1:])).backward()
    if step == 2 and rank() == 1:
        model.lm_head.weight.grad[3, 5] = float("inf")
    take_step(model, opt, scale)
    moved.append(any(not torch.equal(before[name], p) for name, p in model.named_parameters()))
Path(sys.argv[1], f"{rank()}.json").write_text(json.dumps([moved, scale.scale]))
end_dist()
"""


def test_an_infinity_in_one_process_is_everybodys(tmp_path):
    "All skip the step and halve the factor, so that they stay the same model"
    script = tmp_path / "overflow.py"
    script.write_text(OVERFLOW)
    done = torchrun(2, script, tmp_path, base=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)]
    assert said[0] == said[1] == [[True, True, False, True], 2.0**9]


def test_a_gradient_that_is_always_infinite_ends_the_stage():
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.precision import LossScale
    from nanochat.pretrain import take_step

    model = tiny(torch.float16)
    opt, scale = MuonAdamW(param_groups(model)), LossScale(2.0)
    with pytest.raises(UserError, match="in float16: give another --run --dtype float32"):
        for _ in range(60):
            for p in model.parameters():
                p.grad = torch.full_like(p, float("inf"))
            take_step(model, opt, scale)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
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


def test_the_plan_counts_the_model_that_it_plans():
    from nanochat.gpt import GPT, flops_per_token, n_params
    from nanochat.scaling import (
        CARDS,
        RECIPES,
        all_params,
        config_for,
        count_params,
        matrix_params,
        memory_parts,
        plan_tier,
        scale_plan,
    )

    for name, recipe in RECIPES.items():
        plan = scale_plan(name)
        with torch.device("meta"):
            model = GPT(recipe.config(), torch.bfloat16)
        assert plan.params == n_params(model)[0] == sum(plan.params_by_group.values())
        assert plan.flops == flops_per_token(model) * plan.tokens
        assert plan.device_rows * plan.micro_batches * 8 * 2048 == plan.batch_tokens
        assert plan.steps * plan.batch_tokens == plan.tokens
        parts = memory_parts(recipe.config(), plan.device_rows, 8)
        assert plan.fits and sum(parts.values()) == round(plan.gib_per_gpu * 2**30) < 0.9 * 80e9
        more = memory_parts(recipe.config(), 2 * plan.device_rows, 8)
        assert sum(more.values()) > 0.9 * 80e9, "as many rows as fit"
        assert parts.keys() == more.keys() and all(parts[k] == more[k] for k in parts if k != "kept")
        assert sum(stage["hours"] for stage in plan.stages.values()) == pytest.approx(plan.hours)
        assert plan.dollars == pytest.approx(plan.hours * 8 * CARDS["h100"].dollars)
        assert set(plan.stages) == {"tokenizer", "base", "mid", "sft", "rl", "evaluation"}
    assert (round(scale_plan("2025").params / 1e6), scale_plan("2025").steps) == (561, 21_400)
    assert plan_tier("full") == scale_plan("2026") and plan_tier("full").depth == 24
    for depth in range(1, 13):
        for V, narrow in ((265, False), (1000, True)):
            c = config_for(depth, V, 64, n_embd=32 * depth, n_head=2, narrow_gates=narrow)
            with torch.device("meta"):
                assert (all_params(c), matrix_params(c)) == n_params(GPT(c))
            assert sum(count_params(c).values()) == all_params(c)


def test_a_card_that_nobody_priced_or_timed_gets_no_number():
    from nanochat.scaling import describe_scale, plan_tier

    a100, mps = plan_tier("gpu", card="a100"), plan_tier("gpu", depth=4, card="mps")
    assert a100.hours > 0 and a100.dollars is None and "$" not in describe_scale(a100)
    assert mps.hours is mps.dollars is None and mps.stages == {} and mps.dtype == "float32"
    assert "no hours are planned" in describe_scale(mps)
    small = plan_tier("gpu", depth=24, card="3070")
    assert not small.fits and "too much for 8 GB" in describe_scale(small)
    assert not a100.fp8 and "eight bits" not in describe_scale(a100), "an A100 has no matrices of eight bits"


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


# --- what a stage says of itself, and the switches of its plan ---


@pytest.mark.parametrize("window, T", [(0, 32), (8, 64), (31, 32), (0, 1100), (8, 1100)])
def test_the_ways_to_attend_that_are_said_are_those_that_are_taken(window, T, monkeypatch):
    from nanochat.attention import WAYS
    from nanochat.gpt import GPT, GPTConfig
    from nanochat.pretrain import ways_to_attend

    taken = {}

    def noting(name, attend):
        def noted(*args, **given):
            taken[name] = taken.get(name, 0) + 1
            return attend(*args, **given)

        return noted

    for name, way in WAYS.items():
        monkeypatch.setitem(WAYS, name, way._replace(attend=noting(name, way.attend)))
    shape = dict(vocab_size=16, seq_len=T, n_layer=4, n_embd=16, n_head=2, n_kv_head=2)
    model = GPT(GPTConfig(**shape, window=window))
    model(torch.zeros(1, T, dtype=torch.long))
    assert taken == ways_to_attend(model, T) and sum(taken.values()) == 4


def test_the_reason_for_a_dtype(tmp_path):
    from nanochat.pretrain import why_dtype

    def why(begins=True, **plan):
        return why_dtype(Run(tmp_path, make_plan("smoke", **plan), torch.device("cpu")), begins)

    assert why(dtype="bfloat16") == "as planned" and "chapter 07" in why(model="baseline")
    assert "1.3 times" in why() and why(begins=False) == "as the run began"


def test_the_switches_of_a_plan_reach_its_model_and_its_memory():
    from nanochat.pretrain import new_model, settings_of
    from nanochat.scaling import LAPTOP, describe, host_bytes, recipe_plan, scale_of, scale_plan, shrink

    saving = dict(bf16_tables=True, checkpoint_blocks=True)
    plan, ids = make_plan("smoke", **saving), torch.randint(512, (2, 16))
    plain, saved = (new_model(p, "cpu", torch.float32) for p in (make_plan("smoke"), plan))
    assert saved.wte.weight.dtype == torch.bfloat16 and plain.wte.weight.dtype == torch.float32
    assert all("forward" in block.__dict__ for block in saved.blocks)
    assert abs(plain(ids, ids).item() - saved(ids, ids).item()) < 0.01
    assert "tables in bfloat16, blocks computed twice" in describe(plan)
    with pytest.raises(UserError, match="switches of --model gpt"):
        make_plan("smoke", model="baseline", checkpoint_blocks=True)
    # blocks that are computed twice give the same losses; tables in bfloat16 don't, and have no band
    small, large = (replace(LAPTOP, **{name: True}) for name in saving)
    assert settings_of(large, "base") == settings_of(LAPTOP, "base") != settings_of(small, "base")
    assert host_bytes(large, False) < host_bytes(LAPTOP, False)
    without, scale = scale_plan("2026"), scale_plan("2026", **saving)
    assert scale.device_rows > without.device_rows and scale.hours > without.hours
    full = recipe_plan(scale)
    assert full.bf16_tables and full.checkpoint_blocks and scale_of(full) == scale
    assert shrink(full).checkpoint_blocks
    assert make_plan("full", task_dir="world", core="none", **saving) == full


def test_a_swapped_tokenizer_of_equal_size_is_refused(tmp_path):
    "Wherever model and tokenizer meet; a checkpoint that doesn't name its own is read as before"
    from nanochat.evaluate import load_stage
    from nanochat.gpt import GPT, save_model, to_hf
    from nanochat.pretrain import new_optimizer, start_stage
    from nanochat.scaling import model_config
    from nanochat.tokenizer import Tokenizer, saved_fingerprint

    mine, other = (Tokenizer.train([page * 99], 272) for page in ("one two three ", "seven eight nine "))
    plan = make_plan("smoke", dtype="float32", vocab_size=272, num_iterations=1)
    run = Run(tmp_path / "runs" / "one", plan, torch.device("cpu"))
    folder, step = run.folder / "tokenizer", run.folder / "base" / "step_1"
    mine.save(folder)
    model, said = GPT(model_config(plan)), dict(stage="base", step=1)
    save_model(model, step, **said, tokenizer=saved_fingerprint(folder))
    assert mine.vocab_size == other.vocab_size and load_stage(run, "base")[1].ranks == mine.ranks
    other.save(folder)
    start = (start_stage, run, "base", model, new_optimizer(model, plan.base))
    for meeting, *args in ((load_stage, run, "base"), start, (to_hf, step, tmp_path / "out")):
        with pytest.raises(UserError, match="run 'one': .*another tokenizer") as e:
            meeting(*args)
        assert "\n" not in str(e.value)
    save_model(model, step, **said)
    assert load_stage(run, "base")[1].ranks == other.ranks


# --- compiled or not ---


def short_run(monkeypatch, base, name, compile_choice, steps=4):
    "A few steps in this process; the compiler's backend only traces, which takes seconds"
    from functools import partial
    from nanochat.pretrain import pretrain
    from nanochat.scaling import open_run

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    real = getattr(torch.compile, "func", torch.compile)
    monkeypatch.setattr(torch, "compile", partial(real, backend="eager"))
    given = dict(tier="smoke", dtype="float32", num_iterations=steps, save_every=2, compile=compile_choice)
    with open_run(name, "cpu", **given).at_work() as run:
        pretrain(run)
    return run


def test_a_compiled_stage_trains_alike_and_says_so(tmp_path, monkeypatch):
    plain = short_run(monkeypatch, tmp_path, "plain", "off")
    compiled = short_run(monkeypatch, tmp_path, "compiled", "on")
    losses = [[line["loss"] for line in lines_of(run.folder, "base")] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert [run.result("base")["compiled"] for run in (plain, compiled)] == [False, True]
    assert json.loads((compiled.folder / "compile.json").read_text()) == {"base": True}


def test_what_a_stage_was_begun_with_is_obeyed(tmp_path, monkeypatch):
    "On resume nothing is measured again: the other choice would round differently"
    import nanochat.pretrain as pretrain

    run = short_run(monkeypatch, tmp_path, "kept", "auto")
    assert json.loads((run.folder / "compile.json").read_text()) == {"base": False}
    (run.folder / "compile.json").write_text('{"base": true}')
    monkeypatch.setattr(pretrain, "wants_compiled", None)  # a call would raise
    model = pretrain.new_model(run.plan, "cpu", torch.float32)
    ids = torch.zeros(2, 16, dtype=torch.long)
    forward = pretrain.choose_forward(run, "base", model, (ids, ids), 9)
    assert type(forward).__name__ == "OptimizedModule"


def test_a_short_stage_does_not_even_load_the_compiler(tmp_path):
    "It takes seconds, and every start of a stage would pay them"
    code = (
        "import sys\n"
        "from nanochat.pretrain import pretrain\n"
        "from nanochat.scaling import open_run\n"
        "with open_run('short', 'cpu', tier='smoke', num_iterations=2).at_work() as run:\n"
        "    pretrain(run)\n"
        "print('torch._dynamo' in sys.modules, 'torch._inductor' in sys.modules)"
    )
    command, env = [sys.executable, "-c", code], environment(tmp_path)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stdout + done.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"base": "yes"}', "[" * 100_000])
def test_a_damaged_choice_is_made_anew(text, tmp_path):
    from nanochat.pretrain import kept_choices

    (tmp_path / "compile.json").write_text(text)
    assert kept_choices(tmp_path / "compile.json") == {}


def test_a_machine_that_cannot_compile_trains_all_the_same(tmp_path, monkeypatch, capsys):
    import nanochat.pretrain as pretrain

    def broken(*_):
        raise RuntimeError("no C++ compiler\nand many more lines")

    monkeypatch.setattr(pretrain, "probe_compile", broken)
    run = short_run(monkeypatch, tmp_path, "bare", "auto", steps=2)
    assert run.result("base")["compiled"] is False and run.result("base")["attention"] == {"blocks": 2}
    err = capsys.readouterr().err
    assert "compile: not possible here (no C++ compiler); the model runs as it is" in err
    assert "base: float32 (as planned); attention: blocks (2 of 2 layers)" in err


@pytest.mark.parametrize("asked", ["on", "kept"])
def test_a_compiled_run_where_nothing_compiles_is_one_line(asked, tmp_path, monkeypatch):
    import nanochat.pretrain as pretrain

    def broken(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: none found\nand ninety more lines")

    if asked == "kept":
        run = short_run(monkeypatch, tmp_path, "there", "auto", steps=2)
        (run.folder / "compile.json").write_text('{"base": true}')
        model = pretrain.new_model(run.plan, "cpu", torch.float32)
        ids = torch.zeros(2, 16, dtype=torch.long)
        monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
        with pytest.raises(UserError, match="'there' trains a compiled model.*InvalidCxx.*compile off") as e:
            pretrain.choose_forward(run, "base", model, (ids, ids), 9)
        assert "\n" not in str(e.value)
    else:
        monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
        from nanochat.scaling import open_run

        opened = open_run("asked", "cpu", tier="smoke", dtype="float32", num_iterations=2, compile="on")
        with pytest.raises(UserError, match="none found.: install a C"), opened.at_work() as run:
            pretrain.pretrain(run)


def test_a_probe_that_fails_halfway_leaves_no_gradients():
    from nanochat.pretrain import new_model, probe_compile
    from nanochat.scaling import SMOKE

    def out_of_memory(_):
        raise torch.OutOfMemoryError("no room")

    model, ids = new_model(SMOKE, "cpu", torch.float32), torch.randint(SMOKE.vocab_size, (2, 16))
    model.blocks[0].mlp.c_fc.weight.register_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        probe_compile(model, lambda: model, (ids, ids), 10**9)
    assert all(p.grad is None for p in model.parameters())


def test_a_probe_leaves_no_trace(tmp_path):
    "Neither in the weights, nor in the gradients, nor in the random numbers"
    from nanochat.pretrain import new_model, probe_compile
    from nanochat.scaling import SMOKE

    model = new_model(SMOKE, "cpu", torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    dice, ids = torch.get_rng_state(), torch.randint(SMOKE.vocab_size, (2, 16))
    torch.set_rng_state(dice)
    probe = probe_compile(model, lambda: model, (ids, ids), 10**9)
    assert probe.compiled is not None and torch.equal(dice, torch.get_rng_state())
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())


def test_a_stage_is_compiled_once(tmp_path, monkeypatch):
    "The trial is a step like those to come: twenty of them, with changing rates, build nothing more"
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    run = short_run(monkeypatch, tmp_path, "once", "on", steps=20)
    assert run.result("base")["compiled"] is True
    assert counters["stats"]["unique_graphs"] == 1


# --- the same seed, the same loss ---

KEPT_TRACE = [  # 20 steps of the smoke tier in float32: whoever changes it on purpose records it again
    6.23833, 6.05078, 5.74682, 5.24243, 4.92920, 4.45995, 4.01848, 4.21921, 4.42546, 3.40213,
    4.12605, 3.63335, 3.67690, 3.70608, 3.19291, 3.79974, 3.70754, 2.96298, 3.32059, 3.53816,
]  # fmt: skip


@pytest.mark.parametrize("threads, instructions", [(1, None), (2, "avx2"), (1, "default")])
def test_the_losses_of_the_smoke_tier_are_the_recorded_ones(threads, instructions, tmp_path):
    """Within 1e-3 on any machine: a change of code alone may not move them

    Measured with torch 2.15: one and two threads and three sets of instructions lie within 3.4e-5 of each
    other. They lay 0.011 apart while AdamW's epsilon was 1e-10 for the stream's scales, too: at the second
    step their gradients are rounding alone, and were full steps (chapter 10).
    """
    args = ("--run", "kept", "--tier", "smoke", "--dtype", "float32", "--num_iterations", 20)
    env = {"ATEN_CPU_CAPABILITY": instructions} if instructions else {}
    run_module("pretrain", *args, base=tmp_path, OMP_NUM_THREADS=threads, **env)
    losses = [line["loss"] for line in lines_of(tmp_path / "runs" / "kept", "base")]
    assert losses == pytest.approx(KEPT_TRACE, abs=1e-3)
