"""A miniseries: small models by one recipe, a law through them, and what a change is worth.

    python bench/miniseries.py               five sizes, about half an hour of one core (not run yet)
    python bench/miniseries.py --sizes 4     without the largest: twelve minutes of one core
    python bench/miniseries.py --quick       a few steps of each, to see that all train; nothing is kept
    python bench/miniseries.py --depths 12 14 16 18 20 22 24 --gpus 8
                                             on GPUs, by the recipe of 2026 and nothing but its depth

Every run goes through the same doors as any other and stays in the base folder, so that what is finished is
not trained again, and `python -m nanochat.scaling fit 'mini-*'` reads it. On a CPU the text is World's, the
rates, rows and vocabulary are those of the smoke tier, and a size reads four tokens for each parameter that
multiplies, about as many as the laptop tier. Two seeds, each a world of its own.

The change (`large-*`): twice the rows in a step and half of the steps, for the same tokens; learning rates
grow by the root of the batch. `iso-*`: four sizes more with the budget of the series's second one.
"""

import argparse, importlib, json, math, subprocess, sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.gpt import GPT, flops_per_token
from nanochat.runs import Plan, UserError, atomic_write, module, read_plan, read_result, run_dir, write_plan
from nanochat.runtime import friendly, provenance
from nanochat.scaling import SMOKE, describe_law, fit_law, matrix_params, model_config, plan_tier
from nanochat.scaling import read_measured, recipe_plan

SIZES = ((2, 48), (2, 64), (3, 80), (3, 96), (4, 112))  # depth and width
OTHERS = ((1, 32), (2, 48), (3, 80), (3, 96))  # with the budget of SIZES[1]
SEEDS = (0, 1)
RATIO = 4  # tokens for each parameter that multiplies
TIMES = 2  # rows of a step by the change, over the series's
VAL_TOKENS = 60_000
RESULTS = here / "bench" / "results"


@dataclass(frozen=True)
class Job:
    "A run to be made"

    name: str
    plan: Plan


def per_token(plan: Plan) -> int:
    "FLOPs of a training step for each token"
    with torch.device("meta"):
        return flops_per_token(GPT(model_config(plan)))


def small_plan(size: tuple, seed: int, flops: float = 0, times: int = 1, share: float = 1) -> Plan:
    "The smoke tier's plan for another size, which reads what its budget, or its parameters, ask for"
    depth, width = size
    plan = replace(SMOKE, depth=depth, n_embd=width, n_head=2, seed=seed, dtype="float32", compile="off")
    tokens = flops / per_token(plan) if flops else RATIO * matrix_params(model_config(plan))
    # fours of steps, so that twice the rows in half of the steps are the same tokens
    fours = max(1, round(share * tokens / (4 * plan.base.rows * plan.seq_len)))
    steps, rows, factor = 4 * fours // times, times * plan.base.rows, math.sqrt(times)
    scaled = ("matrix_lr", "embed_lr", "head_lr", "scalar_lr")
    rates = {name: factor * getattr(plan.base, name) for name in scaled}
    base = replace(plan.base, steps=steps, save_every=steps, rows=rows, device_rows=rows, **rates)
    return replace(plan, base=base, val_tokens=VAL_TOKENS)


def small_jobs(sizes: int, share: float = 1) -> dict:
    "Series, change and equal budgets on a CPU; the change at all sizes but the two largest"

    def both_seeds(name: str, sizes: tuple, **more) -> list:
        pairs = [(size, seed) for size in sizes for seed in SEEDS]
        return [
            Job(f"{name}-w{size[1]}-s{seed}", small_plan(size, seed, share=share, **more))
            for size, seed in pairs
        ]

    series, change = both_seeds("mini", SIZES[:sizes]), both_seeds("large", SIZES[: sizes - 2], times=TIMES)
    middle = Job(f"mini-w{SIZES[1][1]}-s0", small_plan(SIZES[1], 0, share=share))
    budget = per_token(middle.plan) * middle.plan.tokens("base")
    isoflop = [middle, *(Job(f"iso-w{size[1]}-s0", small_plan(size, 0, budget)) for size in OTHERS)]
    return dict(runs=series, change=change, isoflop=isoflop)


def large_jobs(depths: list, gpus: int, card: str) -> dict:
    "A series on GPUs: the recipe's plan for each depth"
    plans = {depth: recipe_plan(plan_tier("full", "2026", depth, gpus, card)) for depth in depths}
    return dict(runs=[Job(f"mini-d{depth}-s0", plan) for depth, plan in plans.items()])


def train(job: Job):
    "Tokenizer, pretraining and score; a step that is done says so"
    kept = read_plan(run_dir(job.name))
    if kept is None:
        write_plan(run_dir(job.name), job.plan)
    elif kept != job.plan:
        raise UserError(
            f"run {job.name!r} was made by another plan: remove it with "
            f"`bash speedrun.sh clean {job.name}`, or set NANOCHAT_BASE_DIR to another folder"
        )
    for name, options in (("tokenizer", {}), ("pretrain", {}), ("evaluate", dict(stage="base"))):
        if job.plan.gpus == 1 or name == "tokenizer":
            importlib.import_module(f"nanochat.{name}").main(run=job.name, **options)
            continue
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        command = module("distributed", "--processes", str(job.plan.gpus), name, "--run", job.name, *words)
        subprocess.run(command, check=True)


def work_off(groups: dict) -> dict:
    "Train all jobs; what was measured, group by group"
    found = {name: [] for name in groups}
    for name, jobs in groups.items():
        for job in jobs:
            train(job)
            found[name].append(asdict(read_measured(job.name)))
            print(f"{job.name}: {found[name][-1]['bpb']:.4f} bits per byte", flush=True)
    return found


@friendly
def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--sizes", type=int, choices=range(3, len(SIZES) + 1), default=len(SIZES), help="how many")
    p.add_argument("--depths", type=int, nargs="+", help="on GPUs: depths of the recipe of 2026")
    p.add_argument("--gpus", type=int, default=1)
    p.add_argument("--card", default="h100")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--out", type=Path, help="default: miniseries.json, with --depths miniseries_gpu.json")
    a = p.parse_args()
    groups = large_jobs(a.depths, a.gpus, a.card) if a.depths else small_jobs(a.sizes, 0.02 if a.quick else 1)
    found = work_off(groups)
    if a.quick:
        return
    names = [job.name for jobs in groups.values() for job in jobs]
    sizes = f"--sizes {a.sizes}"
    if a.depths:
        sizes = f"--depths {' '.join(map(str, a.depths))} --gpus {a.gpus} --card {a.card}"
    setting = dict(
        command=f"python bench/miniseries.py {sizes}",
        training_seconds=sum(read_result(run_dir(name), "base")["seconds"] for name in names),
        threads=torch.get_num_threads(),
        provenance=provenance(),
    )
    out = a.out or RESULTS / ("miniseries_gpu.json" if a.depths else "miniseries.json")
    atomic_write(out, json.dumps(found | setting, indent=1) + "\n")
    print(describe_law(fit_law([read_measured(job.name) for job in groups["runs"]])))


if __name__ == "__main__":
    main()
