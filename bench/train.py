"""A training step on a CPU (forward, backward, optimizer): ours beside nanoGPT's shape and transformers.

    python bench/train.py                    twenty minutes on two cores, most of them compiling
    python bench/train.py --eager            six minutes: nothing is compiled
    python bench/train.py --quick            half a minute: a proof that every side trains

`shape`: 4 layers, 256 wide, vocabulary 4,096, 8 rows of 512 tokens, in float32 and bfloat16, eager and
compiled: ours in the classic form and with every switch of chapter 09, both with chapter 11's optimizer; a
GPT of 2023 written anew here from torch's own layers, with torch's fused AdamW and, in bfloat16, autocast;
transformers' NanoChat class with the same AdamW. `window`: ours looking back 128 tokens in three layers of
four, against none. `deep`: 6 layers, 384 wide, what share of the machine's own matmul peak a step reaches.

All sides of a dtype train in turns in one process, a few steps each, so that a busy neighbour meets all. The
peak of a matmul is measured in every lap, and a share is that of the same lap. Medians over laps. FLOPs are
counted in one way for all sides: 6 for each parameter that multiplies, and 12 · layers · width · positions
seen; so a window lowers the count of its own step.
"""

import argparse, json, os, statistics, sys, time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
import torch.nn.functional as F
from torch import nn
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, MODERN, GPTConfig, flops_per_token
from nanochat.pretrain import train_step
from nanochat.runs import atomic_write
from nanochat.runtime import keep_memory, matmul_flops, provenance

ROWS = 8
GOALS = dict(  # the best of ours over the best of the other, from the course's plan
    nanogpt=dict(float32=1.05, bfloat16=1.25),
    nanochat_of_transformers=dict(float32=1.3, bfloat16=1.3),
    share_of_peak_float32=0.65,
)


@dataclass(frozen=True)
class Shape:
    n_layer: int = 4
    n_embd: int = 256
    n_head: int = 4
    vocab_size: int = 4096
    seq_len: int = 512


SHAPE, DEEP = Shape(), Shape(n_layer=6, n_embd=384, n_head=6)


# ---- the GPT of 2023, from torch's own layers ----


class Block(nn.Module):
    "LayerNorm, attention of several heads, LayerNorm, four times wider and back"

    def __init__(self, shape):
        super().__init__()
        C = shape.n_embd
        self.n_head = shape.n_head
        self.norm1, self.norm2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.back = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        wide, narrow = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)
        self.mlp = nn.Sequential(wide, nn.GELU(), narrow)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(C, dim=2)
        heads = [t.view(B, T, self.n_head, -1).transpose(1, 2) for t in (q, k, v)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.back(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.norm2(x))


class Of2023(nn.Module):
    "Learned positions, blocks, a head that is the table of tokens"

    def __init__(self, shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positions = nn.Embedding(shape.seq_len, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.norm = nn.LayerNorm(shape.n_embd, bias=False)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.size(1)]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class OfTransformers(nn.Module):
    "transformers' NanoChat class"

    def __init__(self, shape):
        from transformers import NanoChatConfig, NanoChatForCausalLM

        super().__init__()
        config = NanoChatConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.n_embd,
            intermediate_size=4 * shape.n_embd,
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            num_key_value_heads=shape.n_head,
            max_position_embeddings=shape.seq_len,
            use_cache=False,
        )
        self.model = NanoChatForCausalLM(config)

    def forward(self, ids, targets):
        logits = self.model(input_ids=ids).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


# ---- a side: something that makes one step ----


@dataclass
class Side:
    "One way to train: its step, and what it measured"

    name: str
    flops: int  # for each token
    step: object  # called with (ids, targets)
    compile_seconds: float = 0.0
    seconds: list = field(default_factory=list)  # of a step, by lap


def batch(shape):
    ids = torch.randint(shape.vocab_size, (ROWS, shape.seq_len + 1))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def ours(shape, dtype, switches, compiled):
    "The library's model, optimizer and step"
    torch.manual_seed(0)
    config = GPTConfig(n_kv_head=shape.n_head, **asdict(shape), **switches)
    model = GPT(config, dtype).train()
    optimizer = MuonAdamW(param_groups(model))
    called = torch.compile(model) if compiled else model
    return flops_per_token(model), lambda ids, targets: train_step(called, optimizer, [(ids, targets, None)])


def peer(make, shape, dtype, compiled):
    "A model of others with torch's AdamW; bfloat16 by autocast, as both are trained"
    torch.manual_seed(0)
    model = make(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    called = torch.compile(model) if compiled else model
    half = dtype == torch.bfloat16

    def step(ids, targets):
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            loss = called(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    matrices = 12 * shape.n_layer * shape.n_embd**2 + shape.vocab_size * shape.n_embd
    return 6 * matrices + 12 * shape.n_layer * shape.n_embd * shape.seq_len, step


def made(name, shape, dtype, compiled):
    "A side by its name"
    kinds = {
        "ours classic": lambda: ours(shape, dtype, {}, compiled),
        "ours modern": lambda: ours(shape, dtype, MODERN, compiled),
        "ours modern, window 128": lambda: ours(shape, dtype, dict(MODERN, window=128), compiled),
        "ours classic, window 128": lambda: ours(shape, dtype, dict(window=128), compiled),
        "nanoGPT's": lambda: peer(Of2023, shape, dtype, compiled),
        "transformers' NanoChat": lambda: peer(OfTransformers, shape, dtype, compiled),
    }
    flops, step = kinds[name]()
    return Side(f"{name}, {'compiled' if compiled else 'eager'}", flops, step)


def peak(dtype):
    "The machine's matmul speed now, the best of three sizes"
    return max(matmul_flops(dtype, n=n, repeats=3) for n in (512, 1024, 2048))


def turns(sides, shape, dtype, laps, steps):
    "Train in turns; the median speed of each side, and its share of the peak of the same lap"
    ids, targets = batch(shape)
    for side in sides:
        began = time.perf_counter()
        first = side.step(ids, targets)
        side.compile_seconds = time.perf_counter() - began
        assert first > 0, side.name
        side.step(ids, targets)
    peaks = []
    for lap in range(laps):
        peaks.append(peak(dtype))
        for side in sides[lap % len(sides) :] + sides[: lap % len(sides)]:  # nobody is always the first
            began = time.perf_counter()
            for _ in range(steps):
                side.step(ids, targets)
            side.seconds.append((time.perf_counter() - began) / steps)
        print(f"\r{str(dtype)[6:]} lap {lap + 1}/{laps}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    tokens, found = ids.numel(), {}
    for side in sides:
        seconds = statistics.median(side.seconds)
        shares = [side.flops * tokens / s / p for s, p in zip(side.seconds, peaks)]
        found[side.name] = dict(
            tokens_per_second=tokens / seconds,
            gflops=side.flops * tokens / seconds / 1e9,
            share_of_peak=statistics.median(shares),
            first_step_seconds=side.compile_seconds,
            seconds=side.seconds,
        )
    gflops = [p / 1e9 for p in peaks]
    return dict(sides=found, peak_gflops=statistics.median(gflops), peaks_gflops=gflops)


def best(sides, begins, window=False):
    "The fastest side whose name begins so, eager or compiled"
    found = [s for name, s in sides.items() if name.startswith(begins) and ("window" in name) == window]
    return max(found, key=lambda side: side["tokens_per_second"])


def ratio(one, other):
    "How many times as fast, as a median over laps"
    return statistics.median(b / a for a, b in zip(one["seconds"], other["seconds"]))


def say(title, found):
    print(f"\n{title}; matmul peak {found['peak_gflops']:,.0f} GFLOP/s")
    for name, side in found["sides"].items():
        print(
            f"  {name:34} {side['tokens_per_second']:7,.0f} tokens/s {side['gflops']:6,.0f} GFLOP/s "
            f"{side['share_of_peak']:6.1%} of the peak"
        )


PARTS = dict(
    shape=(SHAPE, ("ours classic", "ours modern", "nanoGPT's", "transformers' NanoChat")),
    window=(SHAPE, ("ours classic", "ours classic, window 128", "ours modern", "ours modern, window 128")),
    deep=(DEEP, ("ours classic", "ours modern", "nanoGPT's")),
)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    ap.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    ap.add_argument("--laps", type=int, default=15)
    ap.add_argument("--steps", type=int, default=3, help="of each side in a lap")
    ap.add_argument("--eager", action="store_true", help="compile nothing")
    ap.add_argument("--quick", action="store_true", help="an eager step of each: nothing is kept")
    ap.add_argument("--out", type=Path, default=here / "bench" / "results" / "train.json")
    a = ap.parse_args()
    if a.quick:
        a.laps, a.steps, a.eager = 1, 1, True
    keep_memory()
    out = dict(
        what="tokens per second of a training step: forward, backward and optimizer",
        command=" ".join(["python", "bench/train.py", *sys.argv[1:]]),
        rows=ROWS,
        threads=torch.get_num_threads(),
        load_before=os.getloadavg()[0],
        goals=GOALS,
        parts={},
    )
    import transformers

    out["versions"] = provenance() | dict(transformers=transformers.__version__)
    for part in a.parts:
        shape, names = PARTS[part]
        out["parts"][part] = dict(shape=asdict(shape), dtypes={})
        for dtype in a.dtypes:
            ways = (False,) if a.eager else (False, True)
            sides = [made(name, shape, getattr(torch, dtype), way) for name in names for way in ways]
            found = turns(sides, shape, getattr(torch, dtype), a.laps, a.steps)
            out["parts"][part]["dtypes"][dtype] = found
            say(f"{part}, {dtype}, {shape.n_layer} layers, {shape.n_embd} wide", found)
            del sides
            torch.compiler.reset()
            if not a.quick:
                atomic_write(a.out, json.dumps(out, indent=1) + "\n")
    verdicts(out)
    if not a.quick:
        atomic_write(a.out, json.dumps(out, indent=1) + "\n")
        sys.exit(0 if all(v["met"] for v in out["verdicts"]) else 1)


def verdicts(out):
    "Each goal beside what was measured"
    out["verdicts"], parts = [], out["parts"]

    def judge(what, value, goal):
        out["verdicts"].append(dict(what=what, value=value, goal=goal, met=value >= goal))
        print(f"{'ok  ' if value >= goal else 'MISS'} {what}: {value:.2f} (goal {goal})")

    for dtype, found in parts.get("shape", dict(dtypes={}))["dtypes"].items():
        sides = found["sides"]
        for name, key in (("nanoGPT's", "nanogpt"), ("transformers' NanoChat", "nanochat_of_transformers")):
            value = ratio(best(sides, "ours"), best(sides, name))
            judge(f"{dtype}: best of ours / {name} best", value, GOALS[key][dtype])
    for dtype, found in parts.get("window", dict(dtypes={}))["dtypes"].items():
        sides = found["sides"]
        for form in ("ours classic", "ours modern"):
            value = ratio(best(sides, form, window=True), best(sides, form))
            judge(f"{dtype}: {form} with a window / without", value, 1.0)
    deep = parts.get("deep", dict(dtypes={}))["dtypes"].get("float32")
    if deep:
        share = best(deep["sides"], "ours")["share_of_peak"]
        judge("float32, 6 layers, 384 wide: share of the matmul peak", share, GOALS["share_of_peak_float32"])


if __name__ == "__main__":
    main()
