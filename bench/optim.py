"""The optimizer's share of a training step, beside torch.optim.AdamW and torch.optim.Muon.

    python bench/optim.py                two minutes on two cores: float32 and bfloat16
    python bench/optim.py --laps 3       shorter
    python bench/optim.py --compile      only ours beside ours compiled: two minutes, most of them building

One model: 4 layers, 256 wide, vocabulary 4,096, 8 rows of 512 tokens, every switch of chapter 09 on. In
turns, a lap of each after the other, so that a busy neighbour meets all of them: forward and backward pass;
ours (Muon and AdamW by the course's table); ours with all products of the polar factors (without `gram`), and
with four and three polynomials in place of five; torch's Muon for the matrices, torch's AdamW for the rest;
torch's AdamW for everything. Medians; the ratios are what counts. torch's Muon always computes in bfloat16.
Compiled and not, in turns as well, are counted in processor time, which neighbours hardly disturb.
"""

import argparse, json, os, statistics, sys, time
from dataclasses import replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(here), str(here / "bench")]
import torch
from ablations import FOUR, THREE
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN, n_params
from nanochat.optim import COURSE, polar
from nanochat.runs import atomic_write
from nanochat.runtime import provenance

SHAPE = dict(vocab_size=4096, seq_len=512, n_layer=4, n_embd=256, n_head=4, n_kv_head=4, **MODERN)
ROWS, GOAL = 8, 0.08


def torchs_muon(model):
    "torch.optim.Muon for what the course's table gives to Muon, torch.optim.AdamW for the rest"
    groups = param_groups(model)
    muon = [p for g in groups if g["kind"] == "muon" for p in g["params"]]
    adamw = [dict(params=g["params"], lr=g["lr"]) for g in groups if g["kind"] == "adamw"]
    one = torch.optim.Muon(muon, lr=0.02, momentum=0.95, weight_decay=0.0)
    other = torch.optim.AdamW(adamw, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)

    def step():
        one.step()
        other.step()

    return step


def polar_factors(model):
    "The matrix products of ours alone"
    stacks = [
        torch.stack([p.grad for p in g["params"]]) for g in param_groups(model) if g["kind"] == "muon"
    ]
    return lambda: [polar(stack, dtype=model.dtype, gram=True) for stack in stacks]


def changed(**settings):
    "The course's table, with other settings of Muon"
    first, *others = COURSE.kinds
    return replace(COURSE, kinds=(replace(first, muon=replace(first.muon, **settings)), *others))


# of the course's optimizer: all products for wide and tall matrices, and fewer polynomials
VARIANTS = {
    "ours": changed(),
    "ours without gram": changed(gram=False),
    "ours, four polynomials": changed(coefs=FOUR),
    "ours, three polynomials": changed(coefs=THREE),
}


def ways(dtype):
    "A step's parts by name; each optimizer has a model of its own, all with the same gradients"
    torch.manual_seed(0)
    trained = GPT(GPTConfig(**SHAPE), dtype)
    x = torch.randint(SHAPE["vocab_size"], (ROWS, SHAPE["seq_len"] + 1))
    models = {name: GPT(GPTConfig(**SHAPE), dtype) for name in (*VARIANTS, "muon", "adamw", "polar")}

    def passes():
        trained.zero_grad()
        trained(x[:, :-1], x[:, 1:]).backward()

    passes()
    for model in models.values():
        for p in model.parameters():
            p.grad = torch.randn_like(p) * 1e-3
    ours = {name: param_groups(models[name], table=table) for name, table in VARIANTS.items()}
    return {
        "forward and backward": passes,
        **{name: MuonAdamW(groups).step for name, groups in ours.items()},
        "torch Muon + AdamW": torchs_muon(models["muon"]),
        "torch AdamW": torch.optim.AdamW(models["adamw"].parameters(), lr=1e-3).step,
        "polar factors of ours": polar_factors(models["polar"]),
    }


def measure(dtype, laps):
    "Median seconds of each part, and the share of a step that each optimizer would take"
    parts = ways(dtype)
    times = {name: [] for name in parts}
    for lap in range(laps + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if lap:  # the first lap wakes everything up
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    passes = seconds["forward and backward"]
    share = {name: s / (s + passes) for name, s in seconds.items() if name not in ("forward and backward",)}
    for name, s in seconds.items():
        print(
            f"  {str(dtype)[6:]:8} {name:24} {1000 * s:7.1f} ms"
            + (f"  {share[name]:6.1%} of a step" if name in share else "")
        )
    tokens = ROWS * SHAPE["seq_len"]
    return dict(
        seconds=seconds,
        laps=times,
        share=share,
        tokens_per_second=tokens / (passes + seconds["ours"]),
        ours_beside_torchs_muon=seconds["ours"] / seconds["torch Muon + AdamW"],
        goal_met=share["ours"] <= GOAL,
    )


def processor_ms(step):
    "Milliseconds of processor time, of all threads together"
    start = time.process_time()
    step()
    return 1000 * (time.process_time() - start)


def compiled(dtype, laps):
    "A step of ours plain and compiled, in processor time, and the seconds that building took"
    optimizers = {}
    for name in ("plain", "compiled"):
        torch.manual_seed(0)
        model = GPT(GPTConfig(**SHAPE), dtype)
        for p in model.parameters():
            p.grad = torch.randn_like(p) * 1e-3
        optimizers[name] = MuonAdamW(param_groups(model))
        optimizers[name].step()
    optimizers["compiled"].compile()
    start = time.perf_counter()
    optimizers["compiled"].step()
    build = time.perf_counter() - start
    times = {name: [] for name in optimizers}
    for _ in range(laps):
        for name, opt in optimizers.items():
            times[name].append(processor_ms(opt.step))
    median = {name: statistics.median(t) for name, t in times.items()}
    print(f"  {str(dtype)[6:]:8} processor time in ms: {median}, {build:.0f} s to build")
    return dict(milliseconds=median, laps=times, seconds_to_build=build)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--laps", type=int, default=15)
    p.add_argument("--out", type=Path, default=here / "bench" / "results" / "optim.json")
    p.add_argument("--compile", action="store_true", help="only ours beside ours compiled")
    a = p.parse_args()
    load = os.getloadavg()[0]
    before = json.loads(a.out.read_text()) if a.out.exists() else {}
    if a.compile:
        found = {str(dtype)[6:]: compiled(dtype, a.laps) for dtype in (torch.float32, torch.bfloat16)}
        found |= dict(threads=torch.get_num_threads(), load_before=load, provenance=provenance())
        atomic_write(a.out, json.dumps(before | dict(compiled=found), indent=1) + "\n")
        return
    out = dict(
        shape=SHAPE,
        rows=ROWS,
        params=n_params(GPT(GPTConfig(**SHAPE)))[0],
        goal=GOAL,
        figures={str(dtype)[6:]: measure(dtype, a.laps) for dtype in (torch.float32, torch.bfloat16)},
        threads=torch.get_num_threads(),
        load_before=load,
        provenance=provenance(),
    )
    kept = {name: before[name] for name in ("compiled",) if name in before}
    atomic_write(a.out, json.dumps(out | kept, indent=1) + "\n")
    if not all(f["goal_met"] for f in out["figures"].values()):
        print(f"goal missed: ours takes more than {GOAL:.0%} of a step")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
