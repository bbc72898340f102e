"""Chapter 12: what compile gains in a step, and what fewer bits cost, in pairs of runs.

    python bench/precision.py compile     passes forward and back, eager and compiled, each dtype, and what
                                          building costs, with an empty cache and again (eight minutes; a C++
                                          compiler)
    python bench/precision.py bits        bits per byte with tables in bfloat16 and with eight-bit products,
                                          each against bfloat16 with the same seed (two minutes)

`compile`: the laptop tier's model and rows, and 4 layers, 256 wide, vocabulary 4,096, 8 rows of 512 tokens;
every switch on. The optimizer, which is not compiled, is timed beside them. Each figure comes from a process
of its own; `again` finds the kernels that the first one left. `bits`: the byte model of chapter 12 on World's
text.
"""

import argparse, json, math, os, subprocess, sys, tempfile, time
from dataclasses import asdict, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.precision import bf16_tables, compile_pays, seconds_of, use_fp8
from nanochat.pretrain import model_config
from nanochat.runs import atomic_write
from nanochat.runtime import provenance
from nanochat.scaling import make_plan
from nanochat.world import World

WIDER = dict(vocab_size=4096, seq_len=512, n_layer=4, n_embd=256, n_head=4, n_kv_head=4, **MODERN)
STEPS_LEFT = 5000


def shapes():
    "Configs and rows by name"
    laptop = replace(make_plan("laptop"), vocab_size=1024)
    return dict(laptop=(model_config(laptop), laptop.base.rows), wider=(GPTConfig(**WIDER), 8))


def measure(shape, dtype):
    "Seconds of a pass forward and back and of the optimizer's step, and of building; one JSON line"
    torch.manual_seed(0)
    config, rows = shapes()[shape]
    model = GPT(config, getattr(torch, dtype))
    opt, ids = MuonAdamW(param_groups(model)), torch.randint(config.vocab_size, (rows, config.seq_len + 1))
    compiled = torch.compile(model, dynamic=False)

    def passes(forward):
        forward(ids[:, :-1], ids[:, 1:], n_tokens=rows * config.seq_len).backward()
        opt.zero_grad()

    found = compile_pays(lambda: passes(model), lambda: passes(compiled), STEPS_LEFT, usual_cost=0.0)
    model(ids[:, :-1], ids[:, 1:]).backward()
    print(json.dumps(dict(asdict(found), optimizer=seconds_of(opt.step))))


def compile_step():
    "What compiling gains and costs, for each shape and dtype"
    rows = []
    for shape in shapes():
        for dtype in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as kernels:
                around = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": kernels}
                command = [sys.executable, __file__, "one", shape, dtype]
                first, again = (json.loads(subprocess.check_output(command, env=around)) for _ in range(2))
            both = dict(plain=first["plain"], compiled=first["compiled"], optimizer=first["optimizer"])
            both |= dict(ratio=first["plain"] / first["compiled"], cost=first["cost"])
            both |= dict(ratio_again=again["plain"] / again["compiled"], cost_again=again["cost"])
            rows.append(dict(shape=shape, dtype=dtype, **both))
            print(rows[-1], flush=True)
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
    if a.parts[:1] == ["one"] and len(a.parts) == 3:  # what compile_step starts
        return measure(*a.parts[1:])
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
