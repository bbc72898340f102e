"""Twelve minutes on a GPU, planned beforehand: everything that the course says about one, measured in turn.

    python bench/gpu_day.py                      on a machine with a GPU; texts are in ../shared, if anywhere
    python bench/gpu_day.py --minutes 6          the first parts of it
    python bench/gpu_day.py --parts peaks d12    only these
    python bench/gpu_day.py --fake               every part on a CPU with toy sizes: does it still work?
    python bench/gpu_day.py --trace              on a CPU, before that day: losses to hold the GPU's against

Each part is a process of its own with its own seconds, so that one that fails or hangs costs no other, and
every finding is written as soon as it is there. The longest part is last. `d24` ends with a projection to
eight GPUs: an eighth of a step's rows on each, and the messages of chapter 11 at half of NVLink's speed. That
is arithmetic, and is called so.

`first` trains the first 20 steps of depth 12 on four rows of 256 tokens, because a CPU would take hours for
those of `run`: the same first weights, rows and rates as in the trace that a CPU has left. Two devices add up
in different orders, and what rounding moves, every step moves on. How far that may go is told by the CPU
itself: in float32 a GPU may differ from it by ten times what summing the rows one after the other changes
there, for that is one other order, and a GPU has another one in every product; in bfloat16, by twice what
bfloat16 changes there, for it is rounded as often on the GPU, but with other sums.
"""

import argparse, hashlib, json, os, signal, statistics, subprocess, sys, tempfile, threading, time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
BEGAN = time.monotonic()
OUT = here / "bench" / "results" / "gpu_day.json"
TRACE = here / "bench" / "results" / "gpu_day_cpu.json"
SECONDS = dict(peaks=30, first=40, head=50, decode=60, attention=70, tests=80, d12=110, d24=130, run=150)
# how a CPU computes the first steps: dtype, and the pieces that a step's rows are cut into
TRACED = {"float32": ("float32", 1), "float32, row by row": ("float32", 2), "bfloat16": ("bfloat16", 1)}
# a GPU's dtype: how many times what the CPU changes by which of these (see above)
ALLOWED = {"float32": (10, "float32, row by row"), "bfloat16": (2, "bfloat16")}
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
    first: tuple = (20, 4, 256)  # steps, rows and tokens in a row that a CPU can follow
    text: str = "books"  # a folder of ../shared/data; World where that is missing
    steps_in_all: int = 2000  # of the real run
    warmup: int = 40


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
    first=(6, 4, 64),
    text="tinyshakespeare",
    steps_in_all=20,
    warmup=10,
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


def compiling(model, sizes, toy="eager"):
    "The model compiled; on a CPU only traced, and by the toy `aot_eager` its backward pass as well"
    import torch

    return torch.compile(model, dynamic=False, backend="inductor" if sizes.device == "cuda" else toy)


def trainer(depth, rows, count, sizes, compiled=False, fp8=False, toy="eager"):
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
    called = compiling(model, sizes, toy) if compiled else model
    ids = torch.randint(sizes.vocab_size, (rows, sizes.seq_len + 1))
    batch = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None)
    return model, lambda: train_step(called, optimizer, [batch] * count)


def begin(config, sizes, dtype, device=None):
    "A model and its optimizer; the first weights are drawn on the CPU, and so are the same on every device"
    import torch
    from nanochat.distributed import MuonAdamW, param_groups
    from nanochat.gpt import GPT
    from nanochat.optim import TABLES

    torch.manual_seed(0)
    model = GPT(config, dtype).to(device or sizes.device).train()
    return model, MuonAdamW(param_groups(model, table=TABLES["2026"]))


def set_rates(optimizer, step, sizes):
    "The rates of a step of the real run"
    from nanochat.pretrain import lr_at

    for group in optimizer.groups:
        group["lr"] = group["base_lr"] * lr_at(step, sizes.steps_in_all, sizes.warmup, 0.65, 0.05)


def first_batches(sizes):
    "The batches of the first steps: the scoreboard's frozen text, cut by its tokenizer"
    from itertools import islice
    from nanochat.loader import Lanes, batches, encode_arrays
    from nanochat.loss import board_file, board_text
    from nanochat.tokenizer import Tokenizer

    steps, rows, length = sizes.first
    tok, texts = Tokenizer.load(board_file("scoreboard/tokenizer/tokenizer.json").parent), board_text("train")
    encode = encode_arrays(tok.enc, tok.encode)
    lanes = Lanes(lambda at: iter(texts[at:]), encode, tok.bos, length + 1, rows, threads=0)
    return tok, list(islice(batches(lanes, rows, length), steps))


def first_losses(sizes, dtype, split=1, device=None, rate=1.0):
    "The losses of the first steps, which a rate of 1.0 makes as the real run would"
    import torch
    from nanochat.pretrain import train_step

    tok, found = first_batches(sizes)
    config = recipe_config(sizes.small, replace(sizes, seq_len=sizes.first[2], vocab_size=tok.vocab_size))
    model, optimizer = begin(config, sizes, getattr(torch, dtype), device)
    losses = []
    for step, batch in enumerate(found):
        set_rates(optimizer, step, sizes)
        for group in optimizer.groups:
            group["lr"] *= rate
        losses.append(train_step(model, optimizer, [batch], split=split))
    return losses


def first_settings(sizes):
    "What decides the first losses, but for the code; the rows by their fingerprint"
    tok, found = first_batches(sizes)
    digest = hashlib.sha256()
    for ids, targets, _ in found:
        digest.update(ids.numpy().tobytes() + targets.numpy().tobytes())
    steps, rows, length = sizes.first
    shape = dict(depth=sizes.small, vocab_size=tok.vocab_size, steps=steps, rows=rows, tokens=length)
    return dict(shape, steps_in_all=sizes.steps_in_all, warmup=sizes.warmup, sha256=digest.hexdigest())


def apart(losses, others):
    "The largest relative difference between losses of the same step"
    return max(abs(a - b) / b for a, b in zip(losses, others, strict=True))


def trace(sizes, keep=lambda kept: None):
    "The first losses on a CPU in each way of TRACED, and how far each moves them"
    from nanochat.runtime import provenance

    kept = dict(what="the first losses of depth 12, on a CPU", command="python bench/gpu_day.py --trace")
    kept |= dict(settings=first_settings(sizes), versions=provenance(), losses={}, apart={}, seconds={})
    for name, (dtype, split) in TRACED.items():
        began = time.perf_counter()
        kept["losses"][name] = first_losses(sizes, dtype, split, "cpu")
        kept["seconds"][name] = round(time.perf_counter() - began, 1)
        kept["apart"][name] = apart(kept["losses"][name], kept["losses"]["float32"])
        keep(kept)
    return kept


def beside(dtype, losses, kept):
    "Losses beside those of the trace: how far they are apart, how far they may be, and whether that is kept"
    times, way = ALLOWED[dtype]
    found, allowed = apart(losses, kept["losses"]["float32"]), times * kept["apart"][way]
    return dict(apart=found, allowed=allowed, near=found <= allowed)


def speed(depth, rows, sizes, count=1, toy="eager", **how):
    "Tokens a second of training, as a share of the peak, with the memory that was counted and that was taken"
    import torch
    from nanochat.gpt import flops_per_token
    from nanochat.runtime import peak_flops
    from nanochat.scaling import memory_parts

    peak_gib(sizes)
    began = time.perf_counter()
    model, step = trainer(depth, rows, count, sizes, toy=toy, **how)
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


def first(sizes, said):
    "The first steps of depth 12 beside the same steps on a CPU"
    if sizes.device == "cpu":
        kept = trace(sizes)
    elif not TRACE.exists():
        return said(error="no CPU trace is kept: python bench/gpu_day.py --trace makes it")
    else:
        kept = json.loads(TRACE.read_text())
    if kept["settings"] != first_settings(sizes) or set(kept["losses"]) != set(TRACED):
        return said(error="the CPU trace is not whole, or of other steps: python bench/gpu_day.py --trace")
    for dtype in ALLOWED:
        losses = first_losses(sizes, dtype)
        said(dtype=dtype, losses=losses, cpu=kept["losses"]["float32"], **beside(dtype, losses, kept))


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
            said(depth=sizes.small, **speed(sizes.small, 2 * sizes.rows, sizes, toy="aot_eager", **how))
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
    "A real run at depth 12, on books where they are: its curve, as far as the time goes"
    import torch
    from nanochat.corpus import Corpus
    from nanochat.loader import Lanes, batches, encode_arrays, prefetch
    from nanochat.pretrain import train_step
    from nanochat.tokenizer import Tokenizer

    folder = here.parent / "shared" / "data" / sizes.text
    source = str(folder) if folder.exists() else "world"
    texts, left = [], sizes.read // 100
    for text in Corpus(source, 0).documents():
        texts.append(text)
        left -= len(text)
        if left < 0:
            break
    tok = Tokenizer.train(texts, min(sizes.vocab_size, 8192))
    config = replace(recipe_config(sizes.small, sizes), vocab_size=tok.vocab_size)
    model, opt = begin(config, sizes, torch.bfloat16 if sizes.device == "cuda" else torch.float32)
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
    steps, losses, began = sizes.steps_in_all, [], time.perf_counter()
    for step in range(steps):
        set_rates(opt, step, sizes)
        losses.append(train_step(called, opt, [next(stream)]))
        if (step + 1) % max(1, steps // 40) == 0:
            seconds = round(time.perf_counter() - began, 1)
            loss = round(statistics.mean(losses[-10:]), 4)
            said(step=step + 1, loss=loss, seconds=seconds, source=Path(source).name)
        if step == 19:
            said(first_losses=[round(loss, 4) for loss in losses])
    stream.close()


FUNCTIONS = (peaks, first, head, decode, attention, tests, d12, d24, run)
PARTS = {function.__name__: function for function in FUNCTIONS}


# ---- one part in a process of its own; the day ----


def child(name, fake):
    "Compute a part; every finding is a line on stdout at once"

    def said(**finding):
        print(json.dumps(finding), flush=True)

    PARTS[name](FAKE if fake else REAL, said)


def compute(name, seconds, fake, keep=lambda part: None):
    "What a part found within its seconds, and how it ended; `keep` is told after every finding"
    command = [sys.executable, __file__, "--child", name, *["--fake"] * fake]
    began, stopped = time.monotonic(), []
    part = dict(ended="not ended when this was written", seconds=0.0, found=[])
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )

        def stop():
            stopped.append(seconds)
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started

        alarm = threading.Timer(seconds, stop)
        alarm.start()
        try:
            for line in process.stdout:
                if line.startswith("{") and line.endswith("}\n"):
                    part["found"].append(json.loads(line))
                    part["seconds"] = round(time.monotonic() - began, 1)
                    keep(part)
        except BaseException:  # Ctrl-C, a full disk: nobody listens any more
            stop()
            raise
        finally:
            status = process.wait()
            alarm.cancel()
        part["seconds"] = round(time.monotonic() - began, 1)
        part["ended"] = f"status {status}" if status else "whole"
        if stopped:
            part["ended"] = f"stopped after {seconds:.0f} s"
        elif status:
            errors.seek(0)
            part["error"] = errors.read().strip().splitlines()[-3:]
    keep(part)
    return part


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    ap.add_argument("--minutes", type=float, default=12.0)
    ap.add_argument("--fake", action="store_true", help="toy sizes on a CPU; kept only in --out")
    ap.add_argument("--trace", action="store_true", help="the first losses on a CPU; takes minutes")
    ap.add_argument("--out", type=Path)
    ap.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.child:
        return child(a.child, a.fake)
    import torch
    from nanochat.runs import atomic_write
    from nanochat.runtime import provenance

    def keep(result, out):
        if out:
            atomic_write(out, json.dumps(result, indent=1) + "\n")

    if a.trace:
        return trace(FAKE if a.fake else REAL, lambda kept: keep(kept, a.out or (None if a.fake else TRACE)))
    if not a.fake and not torch.cuda.is_available():
        sys.exit("error: here is no GPU; --fake tries the script on a CPU")
    out = a.out or (None if a.fake else OUT)
    command = " ".join(["python", "bench/gpu_day.py", *sys.argv[1:]])
    day = dict(what="measured on one GPU", command=command, fake=a.fake, versions=provenance(), parts={})
    day["sizes"] = asdict(FAKE if a.fake else REAL)

    def heard(name, part):
        "Keep all that is known by now"
        day["parts"][name] = part
        keep(day, out)

    for name in a.parts:
        left = 60 * a.minutes - (time.monotonic() - BEGAN)
        if left < 10:
            part = dict(ended="not begun: no time was left", found=[])
            heard(name, part)
        else:
            part = compute(name, min(left, SECONDS[name]), a.fake, lambda part: heard(name, part))
        print(f"{name}: {part['ended']}, {len(part['found'])} findings", flush=True)
        for finding in part["found"] + part.get("error", []):
            print("   ", json.dumps(finding), flush=True)
    bad = [name for name, part in day["parts"].items() if part["ended"].startswith("status")]
    if bad:
        sys.exit(f"error: {', '.join(bad)} failed: see above")
    far = [one["dtype"] for one in day["parts"].get("first", {}).get("found", []) if one.get("near") is False]
    if far:
        sys.exit(f"goal missed: in {', '.join(far)} the first losses are not those of the CPU: see above")


if __name__ == "__main__":
    main()
