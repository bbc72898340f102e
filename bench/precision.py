"""Chapter 12: what compile gains in a whole step, and what fewer bits cost, in pairs of runs.

    python bench/precision.py compile     eager and compiled step, each dtype (two minutes; a C++ compiler)
    python bench/precision.py bits        bits per byte with tables in bfloat16 and with eight-bit products,
                                          each against bfloat16 with the same seed (two minutes)

`compile`: 4 layers, 256 wide, vocabulary 4,096, 8 rows of 512 tokens, every switch on; forward, backward and
optimizer, of which the model alone is compiled. `bits`: the byte model of chapter 12 on World's text.
"""

import argparse, json, math, sys, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.precision import bf16_tables, compile_pays, use_fp8
from nanochat.runs import atomic_write
from nanochat.runtime import provenance
from nanochat.world import World

SHAPE = dict(vocab_size=4096, seq_len=512, n_layer=4, n_embd=256, n_head=4, n_kv_head=4, **MODERN)
ROWS, STEPS_LEFT = 8, 5000


def stepper(dtype, compiled):
    "One step of training that waits for its loss, as a function"
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SHAPE), dtype)
    opt, ids = MuonAdamW(param_groups(model)), torch.randint(4096, (ROWS, 513))
    loss_of = torch.compile(model, dynamic=False) if compiled else model

    def step():
        loss = loss_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        opt.step()
        model.zero_grad()
        return loss.item()

    return step


def compile_step():
    "What compiling gains and costs, for each dtype"
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        found = compile_pays(stepper(dtype, False), stepper(dtype, True), STEPS_LEFT, usual_cost=0.0)
        ratio = found.plain / found.compiled
        rows.append(
            dict(
                dtype=str(dtype)[6:],
                plain=found.plain,
                compiled=found.compiled,
                cost=found.cost,
                ratio=ratio,
                border=found.cost / (found.plain - found.compiled) if ratio > 1 else None,
            )
        )
        print(rows[-1])
    return rows


T, SMALL = 64, dict(vocab_size=128, seq_len=64, n_layer=2, n_embd=64, n_head=2, n_kv_head=2, **MODERN)


def world_bytes(n):
    "The first bytes of World's text"
    text, docs = "", World(0).documents()
    while len(text) < n:
        text += next(docs) + "\n"
    return torch.tensor(list(text.encode()))


def bits_per_byte(data, prepare, seed, steps):
    "Of a model trained for some steps, on bytes that it has not seen"
    torch.manual_seed(seed)
    model, chance = GPT(GPTConfig(**SMALL), torch.bfloat16), torch.Generator().manual_seed(seed)
    if prepare:
        prepare(model)
    opt = MuonAdamW(param_groups(model), dtype=torch.float32)
    for step in range(steps):
        for group in opt.groups:
            group["lr"] = group["base_lr"] * min(1, 2 * (1 - step / steps))
        at = torch.randint(260_000, (8,), generator=chance)
        ids = torch.stack([data[i : i + T + 1] for i in at])
        model(ids[:, :-1], ids[:, 1:]).backward()
        opt.step()
        model.zero_grad()
    val = data[270_000 : 270_000 + 256 * T + 1]
    with torch.no_grad():
        return model.eval()(val[:-1].view(-1, T), val[1:].view(-1, T)).item() / math.log(2)


def bits(pairs=8, steps=200):
    "Paired differences of bits per byte against bfloat16"
    data, ways = world_bytes(300_000), dict(bfloat16=None, tables=bf16_tables, eight=use_fp8)
    scores, start = {name: [] for name in ways}, time.perf_counter()
    for seed in range(pairs):
        for name, prepare in ways.items():
            scores[name].append(bits_per_byte(data, prepare, seed, steps))
        print(seed, {name: round(line[-1], 4) for name, line in scores.items()})
    differences = {}
    for name in ("tables", "eight"):
        change = torch.tensor(scores[name]) - torch.tensor(scores["bfloat16"])
        error = change.std().item() / pairs**0.5
        differences[name] = dict(mean=change.mean().item(), standard_error=error)
    seconds = time.perf_counter() - start
    return dict(
        pairs=pairs, steps=steps, shape=SMALL, scores=scores, differences=differences, seconds=seconds
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("parts", nargs="*", help="compile, bits; default: both")
    out_file = here / "bench" / "results" / "precision.json"
    p.add_argument("--out", type=Path, default=out_file, help="where the figures go")
    a = p.parse_args()
    parts = dict(compile=compile_step, bits=bits)
    if unknown := set(a.parts) - set(parts):
        p.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(parts)}")
    out = json.loads(a.out.read_text()) if a.out.exists() else {}
    for name in a.parts or parts:
        found = parts[name]()
        out[name] = dict(
            figures=found,
            command=f"python bench/precision.py {name}",
            threads=torch.get_num_threads(),
            provenance=provenance(),
        )
        atomic_write(a.out, json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
