"""Twelve minutes on a GPU, planned beforehand: everything that the course says about one, measured in turn.

    python bench/gpu_day.py                      on a machine with a GPU; texts are in ../shared, if anywhere
    python bench/gpu_day.py --minutes 6          the first parts of it
    python bench/gpu_day.py --parts peaks d12    only these
    python bench/gpu_day.py --fake               every part on a CPU with toy sizes: does it still work?

Each part is a process of its own with its own seconds, so that one that fails or hangs costs no other, and
its result is written as soon as it is there. The longest part is last. `d24` ends with a projection to eight
GPUs: an eighth of a step's rows on each, and the messages of chapter 11 at half of NVLink's speed. That is
arithmetic, and is called so.
"""

import argparse, json, os, signal, statistics, subprocess, sys, time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
BEGAN = time.monotonic()
OUT = here / "bench" / "results" / "gpu_day.json"
SECONDS = dict(peaks=30, attention=70, head=60, d12=150, decode=60, tests=80, d24=150, run=120)
NVLINK = 450e9  # bytes a second in one direction: half of the 900 GB/s of NVIDIA's data sheet (H100 SXM)


@dataclass(frozen=True)
class Sizes:
    "What a part computes"

    device: str = "cuda"
    matmul: int = 8192
    copied: int = 1 << 30  # bytes
    rows: int = 16
    seq_len: int = 2048
    vocabularies: tuple = (32_768, 65_536)
    small: int = 12  # depth
    large: int = 24
    large_rows: tuple = (16, 8)
    vocab_size: int = 32_768
    steps: int = 10
    answer: int = 128  # tokens
    batches: tuple = (1, 8, 64)
    read: int = 600_000_000  # bytes of text, at most


REAL = Sizes()
FAKE = Sizes(
    device="cpu",
    matmul=256,
    copied=1 << 20,
    rows=2,
    seq_len=64,
    vocabularies=(512,),
    small=2,
    large=2,
    large_rows=(2, 1),
    vocab_size=512,
    steps=2,
    answer=4,
    batches=(1, 2),
    read=200_000,
)


# ---- tools ----


def synchronize(sizes):
    import torch

    if sizes.device == "cuda":
        torch.cuda.synchronize()


def milliseconds(call, sizes, laps=10, warm=3):
    "Median time of a call on the device"
    times = []
    for lap in range(warm + laps):
        synchronize(sizes)
        began = time.perf_counter()
        call()
        synchronize(sizes)
        if lap >= warm:
            times.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(times), 3)


def peak_gib(sizes):
    "Most GPU memory since the last question"
    import torch

    if sizes.device != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def recipe_config(depth, sizes):
    "The model of the recipe of 2026 at a depth"
    from nanochat.scaling import RECIPES

    recipe = replace(RECIPES["2026"], seq_len=sizes.seq_len, vocab_size=sizes.vocab_size)
    recipe = replace(recipe, window=sizes.seq_len // 4)
    return recipe.config(depth)


def compiling(model, sizes):
    "The model compiled; on a CPU only traced, which is what takes no minute"
    import torch

    return torch.compile(model, dynamic=False, backend="inductor" if sizes.device == "cuda" else "aot_eager")


def trainer(depth, rows, count, sizes, compiled=False, fp8=False):
    "A step of the library's own training: model, optimizer, and a call that makes one"
    import torch
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.gpt import GPT
    from nanochat.optim import TABLES
    from nanochat.precision import use_fp8
    from nanochat.pretrain import train_step

    torch.manual_seed(0)
    dtype = torch.bfloat16 if sizes.device == "cuda" else torch.float32
    with torch.device(sizes.device):
        model = GPT(recipe_config(depth, sizes), dtype).train()
    if fp8:
        use_fp8(model)
    optimizer = MuonAdamW(param_groups(model, table=TABLES["2026"]))
    called = compiling(model, sizes) if compiled else model
    ids = torch.randint(sizes.vocab_size, (rows, sizes.seq_len + 1))
    batch = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None)
    return model, lambda: train_step(called, optimizer, [batch] * count)


def speed(depth, rows, sizes, count=1, **how):
    "Tokens a second of training, as a share of the peak, with the memory that was counted and that was taken"
    import torch
    from nanochat.gpt import flops_per_token
    from nanochat.runtime import peak_flops
    from nanochat.scaling import memory_parts

    peak_gib(sizes)
    began = time.perf_counter()
    model, step = trainer(depth, rows, count, sizes, **how)
    step()
    synchronize(sizes)
    first = time.perf_counter() - began
    ms = milliseconds(step, sizes, laps=sizes.steps, warm=2)
    per_second = rows * count * sizes.seq_len / ms * 1e3
    peak = peak_flops(model.dtype, sizes.device)
    counted = sum(memory_parts(model.cfg, rows, 1, model.dtype).values()) / 2**30
    return dict(
        rows=rows,
        micro_batches=count,
        **how,
        step_ms=ms,
        tokens_per_second=round(per_second),
        share_of_peak=peak and round(flops_per_token(model) * per_second / peak, 4),
        first_step_seconds=round(first, 1),
        gib=peak_gib(sizes),
        gib_counted=round(counted, 2),
        capability=torch.cuda.get_device_capability() if sizes.device == "cuda" else None,
    )


# ---- the parts ----


def tests(sizes, said):
    "pytest -m cuda"
    where = "tests" if sizes.device == "cuda" else "tests/test_precision.py"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", where]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    said(status=done.returncode, words=done.stdout.strip().splitlines()[-15:])


def peaks(sizes, said):
    "How fast this GPU multiplies and copies"
    import torch

    n, found = sizes.matmul, {}
    for name in ("bfloat16", "float16", "float32"):
        a, b = (torch.randn(n, n, device=sizes.device).to(getattr(torch, name)) for _ in range(2))
        found[f"{name}_tflops"] = round(2 * n**3 / milliseconds(lambda: a @ b, sizes) / 1e9, 1)
    if sizes.device == "cpu" or torch.cuda.get_device_capability() >= (8, 9):
        from nanochat.precision import product, to_eight

        a, b = (to_eight(torch.randn(n, n, device=sizes.device)) for _ in range(2))
        ms = milliseconds(lambda: product(a, b, torch.bfloat16), sizes)
        found["fp8_tflops"] = round(2 * n**3 / ms / 1e9, 1)
    x = torch.empty(sizes.copied, dtype=torch.uint8, device=sizes.device)
    y = torch.empty_like(x)
    found["copy_gb_per_second"] = round(2 * sizes.copied / milliseconds(lambda: y.copy_(x), sizes) / 1e6, 1)
    said(n=n, **found)


def attention(sizes, said):
    "Every way to attend, forward and backward, with and without a window"
    import torch
    from nanochat.attention import WAYS, attend, choose_way, runs_varlen, why_not

    dtype = torch.bfloat16 if sizes.device == "cuda" else torch.float32
    shape = (sizes.rows, sizes.seq_len, 12, 128)
    q, k, v = (torch.randn(shape, device=sizes.device, dtype=dtype, requires_grad=True) for _ in range(3))
    for window in (0, sizes.seq_len // 4):
        asked = dict(device=sizes.device, dtype=dtype, T=sizes.seq_len, S=sizes.seq_len, window=window)
        asked |= dict(grad=True, rows=sizes.rows, has_varlen=runs_varlen(q))
        chosen = choose_way(**asked)
        for way in WAYS:
            if why_not(way, **asked):
                continue

            def both():
                attend(q, k, v, window, way=way).sum().backward()

            try:
                peak_gib(sizes)
                ms = milliseconds(both, sizes, laps=5, warm=2)
                said(window=window, way=way, ms=ms, gib=peak_gib(sizes), chosen=way == chosen)
            except torch.OutOfMemoryError:
                said(window=window, way=way, error="out of memory", chosen=way == chosen)
            q.grad = k.grad = v.grad = None


def head(sizes, said):
    "The loss of the head: time and memory by the size of its chunks"
    import torch
    import torch.nn.functional as F
    from nanochat.loss import lm_loss, softcap

    dtype = torch.bfloat16 if sizes.device == "cuda" else torch.float32
    for V in sizes.vocabularies:
        x = torch.randn(sizes.rows, sizes.seq_len, 1536, device=sizes.device, dtype=dtype, requires_grad=True)
        w = torch.randn(V, 1536, device=sizes.device, requires_grad=True)
        t = torch.randint(V, (sizes.rows, sizes.seq_len), device=sizes.device)

        def plain():
            logits = softcap(F.linear(x, w.to(dtype)).float(), 15.0)
            F.cross_entropy(logits.flatten(0, 1), t.flatten()).backward()

        ways = {"plain": plain}
        for power in (24, 26, 28):
            ways[f"lm_loss, chunk 2^{power}"] = lambda n=1 << power: lm_loss(x, w, t, chunk=n).backward()
        for name, call in ways.items():
            peak_gib(sizes)
            try:
                ms = milliseconds(call, sizes, laps=5, warm=2)
                said(vocabulary=V, way=name, ms=ms, gib=peak_gib(sizes))
            except torch.OutOfMemoryError:
                said(vocabulary=V, way=name, error="out of memory")
            x.grad = w.grad = None


def d12(sizes, said):
    "Training at depth 12: as it is, compiled, and with matrices in eight bits"
    import torch

    eight = sizes.device == "cpu" or torch.cuda.get_device_capability() >= (8, 9)
    ways = [dict(compiled=False), dict(compiled=True)] + [dict(compiled=True, fp8=True)] * eight
    for how in ways:
        try:
            said(depth=sizes.small, **speed(sizes.small, 2 * sizes.rows, sizes, **how))
        except Exception as e:  # the others are still worth their seconds
            said(depth=sizes.small, **how, error=f"{type(e).__name__}: {e}"[:300])
        torch.compiler.reset()


def decode(sizes, said):
    "Answers a second: every row writes the same number of tokens"
    import torch
    from nanochat.engine import Engine
    from nanochat.gpt import GPT

    dtype = torch.bfloat16 if sizes.device == "cuda" else torch.float32
    for depth in sorted({sizes.small, sizes.large}):
        torch.manual_seed(0)
        with torch.device(sizes.device):
            model = GPT(recipe_config(depth, sizes), dtype).eval()
        for rows in sizes.batches:
            engine = Engine(model, max_rows=rows)
            prompts = [list(range(1, 33))] * rows
            engine.generate(prompts, max_tokens=4)
            synchronize(sizes)
            began = time.perf_counter()
            engine.generate(prompts, max_tokens=sizes.answer)
            synchronize(sizes)
            took = time.perf_counter() - began
            said(depth=depth, rows=rows, tokens_per_second=round(rows * sizes.answer / took, 1))


def d24(sizes, said):
    "Training at depth 24, and what that says of eight such GPUs"
    import torch
    from nanochat.scaling import RECIPES, all_params

    recipe, found = RECIPES["2026"], []
    eight = sizes.device == "cpu" or torch.cuda.get_device_capability() >= (8, 9)
    for rows in sizes.large_rows:
        try:
            # a step of one GPU of eight has 64 rows; its optimizer, whole here, would step an eighth there
            count = 64 // rows if sizes.device == "cuda" else 2
            found.append(speed(sizes.large, rows, sizes, count, compiled=True, fp8=eight))
            said(depth=sizes.large, **found[-1])
        except Exception as e:
            said(depth=sizes.large, rows=rows, error=f"{type(e).__name__}: {e}"[:300])
        torch.compiler.reset()
    if found:
        best = max(one["tokens_per_second"] for one in found)
        computing = recipe.batch() / 8 / best
        messages = 2 * 7 / 8 * 4 * all_params(recipe.config()) / NVLINK
        hours = {
            name: round(recipe.steps() * seconds / 3600, 2)
            for name, seconds in dict(hidden=max(computing, messages), after=computing + messages).items()
        }
        said(projected_hours_on_8=hours, step_seconds=computing, message_seconds=messages, measured=False)


def run(sizes, said):
    "A real run at depth 12 on books: its curve, as far as the time goes"
    import torch
    from nanochat.corpus import Corpus
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.gpt import GPT
    from nanochat.loader import Lanes, batches, encode_arrays, prefetch
    from nanochat.optim import TABLES
    from nanochat.pretrain import lr_at, train_step
    from nanochat.tokenizer import Tokenizer

    folder = here.parent / "shared" / "data" / "books"
    source = str(folder) if folder.exists() else "world"
    texts, left = [], sizes.read // 100
    for text in Corpus(source, 0).documents():
        texts.append(text)
        left -= len(text)
        if left < 0:
            break
    tok = Tokenizer.train(texts, min(sizes.vocab_size, 8192))
    tables = TABLES["2026"]
    config = replace(recipe_config(sizes.small, sizes), vocab_size=tok.vocab_size)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if sizes.device == "cuda" else torch.float32
    with torch.device(sizes.device):
        model = GPT(config, dtype).train()
    opt = MuonAdamW(param_groups(model, table=tables))
    lanes = Lanes(
        lambda at: Corpus(source, 0).documents(start=at),
        encode_arrays(tok.enc, tok.encode),
        tok.bos,
        sizes.seq_len + 1,
        2 * sizes.rows,
        threads=2,
    )
    stream = prefetch(batches(lanes, 2 * sizes.rows, sizes.seq_len))
    called = compiling(model, sizes)
    steps, losses, began = 20 if sizes.device == "cpu" else 2000, [], time.perf_counter()
    for step in range(steps):
        for group in opt.groups:
            group["lr"] = group["base_lr"] * lr_at(step, steps, 40 * (sizes.device == "cuda"), 0.65, 0.05)
        losses.append(train_step(called, opt, [next(stream)]))
        if (step + 1) % max(1, steps // 40) == 0:
            seconds = round(time.perf_counter() - began, 1)
            loss = round(statistics.mean(losses[-10:]), 4)
            said(step=step + 1, loss=loss, seconds=seconds, source=source[-5:])
        if step == 19:
            said(first_losses=[round(loss, 4) for loss in losses])
    stream.close()


PARTS = dict(
    peaks=peaks, attention=attention, head=head, d12=d12, decode=decode, tests=tests, d24=d24, run=run
)


# ---- one part in a process of its own; the day ----


def child(name, fake):
    "Compute a part; every finding is a line on stdout at once"

    def said(**finding):
        print(json.dumps(finding), flush=True)

    PARTS[name](FAKE if fake else REAL, said)


def compute(name, seconds, fake):
    "What a part found within its seconds, and how it ended"
    command = [sys.executable, __file__, "--child", name, *["--fake"] * fake]
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=seconds)
        ended = "whole" if process.returncode == 0 else f"status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        out, errors = process.communicate()
        ended = f"stopped after {seconds:.0f} s"
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    result = dict(ended=ended, seconds=round(time.monotonic() - began, 1), found=found)
    if ended.startswith("status"):
        result["error"] = errors.strip().splitlines()[-3:]
    return result


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    ap.add_argument("--minutes", type=float, default=12.0)
    ap.add_argument("--fake", action="store_true", help="toy sizes on a CPU; kept only in --out")
    ap.add_argument("--out", type=Path)
    ap.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.child:
        return child(a.child, a.fake)
    import torch
    from nanochat.runs import atomic_write
    from nanochat.runtime import provenance

    if not a.fake and not torch.cuda.is_available():
        sys.exit("error: here is no GPU; --fake tries the script on a CPU")
    out = a.out or (None if a.fake else OUT)
    command = " ".join(["python", "bench/gpu_day.py", *sys.argv[1:]])
    day = dict(what="measured on one GPU", command=command, fake=a.fake, versions=provenance(), parts={})
    day["sizes"] = asdict(FAKE if a.fake else REAL)
    for name in a.parts:
        left = 60 * a.minutes - (time.monotonic() - BEGAN)
        if left < 10:
            day["parts"][name] = dict(ended="not begun: no time was left", found=[])
        else:
            day["parts"][name] = compute(name, min(left, SECONDS[name]), a.fake)
        part = day["parts"][name]
        print(f"{name}: {part['ended']}, {len(part['found'])} findings", flush=True)
        for finding in part["found"] + part.get("error", []):
            print("   ", json.dumps(finding), flush=True)
        if out:
            atomic_write(out, json.dumps(day, indent=1) + "\n")
    bad = [name for name, part in day["parts"].items() if part["ended"].startswith("status")]
    sys.exit(f"error: {', '.join(bad)} failed: see above" if bad else 0)


if __name__ == "__main__":
    main()
