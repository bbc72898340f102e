"""Where does the loss of a normal run lie, and can the cause be told where a run leaves that band?

    python bench/bands.py make --tier smoke --seeds 0,1,2,3,4,5    # train some seeds, make a band of them
    python bench/bands.py from DIR DIR DIR                         # the same from runs that are there
    python bench/bands.py ill --tier smoke --seeds 6,7,8           # runs that are ill on purpose, judged

A band is the prediction interval (Student's t, 95%) of one more seed, at each mark of chapter 14, on the mean
log loss there, widened by 1% of the loss: rounding and other numbers of processes move it by less. It is
written to nanochat/bands.toml; what it was made from is kept in bench/results/bands.json. The ill runs have
seeds that no band was made of, and so have healthy ones beside them.
"""

import argparse, json, math, statistics, sys, tempfile, tomllib
from contextlib import suppress
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.pretrain import Band, Judge, first_fall, losses_until, marks_of, mean_log, run_tokenizer
from nanochat.pretrain import settings_of, start_base, text_stream, train_stage
from nanochat.runs import STAGES, UserError, atomic_write, read_plan, write_plan
from nanochat.runtime import Run, provenance
from nanochat.scaling import make_plan

TABLE, KEPT = here / "nanochat" / "bands.toml", here / "bench" / "results" / "bands.json"
WIDER = math.log(1.01)
LEVEL = 0.95
ILL_STEPS = 110  # of a longer tier: enough for nine marks


# ---- a run, healthy or not ----


def with_rates(plan, factor: float):
    base = plan.base
    names = ("matrix_lr", "embed_lr", "head_lr", "scalar_lr")
    return replace(plan, base=replace(base, **{name: factor * getattr(base, name) for name in names}))


def half_batch(plan):
    rows = plan.base.rows // 2
    return replace(plan, base=replace(plan.base, rows=rows, device_rows=rows))


def shuffled(stream):
    "Every row's tokens in an order of chance"
    dice = torch.Generator().manual_seed(0)
    for ids_BT, targets_BT, state in stream:
        row_BT = torch.cat((ids_BT, targets_BT[:, -1:]), 1)
        order_BT = torch.rand(row_BT.shape, generator=dice).argsort(1)
        row_BT = row_BT.gather(1, order_BT)
        yield row_BT[:, :-1].contiguous(), row_BT[:, 1:].contiguous(), state


def shown(stream):
    "The target stands where the token before it should: the shift by one was forgotten"
    for _, targets_BT, state in stream:
        yield targets_BT, targets_BT, state


def repeated(stream, batches: int = 8):
    "The same few batches for ever: a loader that begins again and again"
    return cycle(list(islice(stream, batches)))


PLANS = {
    "healthy": lambda plan: plan,
    "rates x 4": lambda plan: with_rates(plan, 4),
    "rates / 4": lambda plan: with_rates(plan, 1 / 4),
    "half a batch": half_batch,
    "bfloat16": lambda plan: replace(plan, dtype="bfloat16"),
    "float16": lambda plan: replace(plan, dtype="float16"),
}
STREAMS = {"tokens shuffled": shuffled, "targets shown": shown, "eight batches again and again": repeated}


def losses_of(tier: str, seed: int, what: str, folder: Path) -> list[float]:
    "Train the base model of a tier, or its first steps, and read its log"
    plan = make_plan(tier, seed=seed, dtype="float32", compile="off")
    plan = PLANS.get(what, PLANS["healthy"])(plan)
    run = Run(folder, plan, torch.device("cpu"))
    write_plan(folder, plan)
    tok = run_tokenizer(run)
    training = start_base(run, tok)
    opened = text_stream(run, tok, training)
    stream = STREAMS.get(what, lambda stream: stream)(opened)
    steps = min(ILL_STEPS, plan.base.steps)
    with suppress(StopIteration):  # the text ends early: our way to stop a longer stage
        train_stage(run, "base", training, islice(stream, steps * (plan.base.rows // plan.base.device_rows)))
    opened.close()
    return losses_until(folder, "base", steps)


# ---- bands ----


def band_of(means: list[list[float]]) -> tuple:
    "The lowest and highest that one more run would have at each mark"
    from scipy.stats import t as student

    n, low, high = len(means), [], []
    reach = student.ppf(0.5 + LEVEL / 2, n - 1) * math.sqrt(1 + 1 / n)
    for at_mark in zip(*means):
        middle, spread = statistics.mean(at_mark), statistics.stdev(at_mark)
        low.append(round(middle - reach * spread - WIDER, 4))
        high.append(round(middle + reach * spread + WIDER, 4))
    return low, high


def verdict(band: Band, losses: list[float]) -> str | None:
    "What the judge says of a run, from its first step to its last"
    judge = Judge(band)
    for loss in losses:
        judge.look(loss)
    return judge.verdict


def alarms(found: dict, runs: dict) -> list:
    "Seeds that a band of the others would call ill"
    out = []
    for seed, losses in runs.items():
        others = [found["means"][other] for other in runs if other != seed]
        low, high = band_of(others)
        band = Band("", "", len(others), found["marks"], low, high, None)
        if verdict(band, losses):
            out.append(seed)
    return out


def make_bands(plans: dict, logs: dict, dtypes: dict) -> dict:
    "{stage: its band, and what it was made from}; plans and dtypes by seed, logs: {stage: {seed: losses}}"
    out = {}
    for stage, runs in logs.items():
        settings = {settings_of(plans[seed], stage) for seed in runs}
        if len(settings) > 1:
            raise UserError(f"{stage}: these runs differ in more than the seed")
        dtype = {dtypes[seed] for seed in runs}
        if len(dtype) > 1:
            raise UserError(f"{stage}: these runs were computed in {' and '.join(sorted(dtype))}")
        marks = marks_of(min(map(len, runs.values())))
        if len(runs) < 3 or not marks:
            continue
        means = {s: [round(mean_log(losses[:m]), 5) for m in marks] for s, losses in runs.items()}
        low, high = band_of(list(means.values()))
        start = round(statistics.mean(map(first_fall, runs.values())), 4)
        found = dict(settings=settings.pop(), dtype=dtype.pop(), seeds=len(runs), marks=marks, low=low,
                     high=high, start=start)
        found["means"] = means
        out[stage] = dict(found, alarms=alarms(found, runs) if len(runs) > 3 else None)
    return out


# ---- keeping ----


def kept() -> dict:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(part: str, tier: str, found: dict):
    out = kept()
    out.setdefault(part, {})[tier] = dict(found, versions=provenance())
    atomic_write(KEPT, json.dumps(out, indent=1) + "\n")


def write_table(tier: str, bands: dict):
    "nanochat/bands.toml with this tier's part made anew"
    table = tomllib.loads(TABLE.read_text()) if TABLE.exists() else {}
    columns = ("settings", "dtype", "seeds", "marks", "low", "high")
    made = [stage for stage in STAGES if stage in bands]
    table[tier] = {stage: {name: bands[stage][name] for name in columns} for stage in made}
    if tier in kept().get("ill", {}):  # causes are named where they were tried
        table[tier]["base"]["start"] = bands["base"]["start"]
    lines = ["# Where the loss of a normal run lies, stage by stage: marks are steps, low and high mean log",
             "# losses (chapter 14). Written by bench/bands.py from the runs in bench/results/bands.json."]
    for tier in sorted(table):
        for stage in table[tier]:
            lines += ["", f"[{tier}.{stage}]"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in table[tier][stage].items()]
    atomic_write(TABLE, "\n".join(lines) + "\n")


def save_bands(tier: str, plans: dict, logs: dict, dtypes: dict):
    bands = make_bands(plans, logs, dtypes)
    write_table(tier, bands)
    keep("bands", tier, bands)
    for stage, band in bands.items():
        last = math.exp(band["low"][-1]), math.exp(band["high"][-1])
        print(f"{tier}, {stage}: {band['seeds']} seeds; at step {band['marks'][-1]} {last[0]:.3f} to "
              f"{last[1]:.3f}; called ill by a band of the others: {band['alarms']}")


def make(tier: str, seeds: list[int]):
    "Train every seed and make the band of base"
    with tempfile.TemporaryDirectory() as base:
        losses = {seed: losses_of(tier, seed, "healthy", Path(base) / str(seed)) for seed in seeds}
    plans = {seed: make_plan(tier, seed=seed) for seed in seeds}
    save_bands(tier, plans, {"base": losses}, dict.fromkeys(seeds, "float32"))


def read_runs(folders: list[str]):
    "Make the bands of a tier from runs that are there"
    plans, logs, dtypes = {}, {}, {}
    for folder in map(Path, folders):
        plan = read_plan(folder)
        if plan is None:
            raise UserError(f"{folder} holds no run")
        plans[plan.seed] = plan
        dtypes[plan.seed] = json.loads((folder / "dtype.json").read_text())["dtype"]
        for stage in STAGES[:3]:
            losses = losses_until(folder, stage, plan.stage(stage).steps)
            if len(losses) == plan.stage(stage).steps:
                logs.setdefault(stage, {})[plan.seed] = losses
    tiers = {plan.tier for plan in plans.values()}
    if len(tiers) > 1:
        raise UserError(f"runs of several tiers: {', '.join(sorted(tiers))}")
    save_bands(tiers.pop(), plans, logs, dtypes)


def ill(tier: str, seeds: list[int]):
    "Train ill runs, and show what their losses give away"
    bands, found = kept().get("bands", {}).get(tier), {}
    if not bands:
        raise UserError(f"tier {tier} has no band yet: make it first")
    said = bands["base"]
    band = Band(tier, "base", **{name: said[name] for name in ("seeds", "marks", "low", "high", "start")})
    for seed in seeds:
        for what in (*PLANS, *STREAMS):
            with tempfile.TemporaryDirectory() as base:
                losses = losses_of(tier, seed, what, Path(base) / "run")
            found.setdefault(what, {})[seed] = [round(loss, 4) for loss in losses]
            print(f"{what}, seed {seed}: {verdict(band, losses) or 'normal'}", flush=True)
        keep("ill", tier, found)
    write_table(tier, bands)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("what", choices=["make", "from", "ill"])
    p.add_argument("folders", nargs="*", help="of runs, for `from`")
    p.add_argument("--tier", default="smoke", choices=["smoke", "laptop"])
    p.add_argument("--seeds", default="0,1,2,3,4,5")
    a = p.parse_args()
    seeds = [int(seed) for seed in a.seeds.split(",")]
    try:
        if a.what == "from":
            read_runs(a.folders)
        else:
            dict(make=make, ill=ill)[a.what](a.tier, seeds)
    except UserError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
