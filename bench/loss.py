"""The loss of the head: its agreement with torch's, its time and its memory beside three other ways.

    python bench/loss.py                 agreement and head: some ten minutes on two quiet cores, 4 GB
    python bench/loss.py full            (32, 2048, 65536) and its gradients, 32 channels: some minutes, 2 GB
    python bench/loss.py head --old F    with another loss.py as a further way; its line is not kept

The ways: `plain`, which is torch's own functions and autograd on all logits; `lm_loss`; `token_losses`, which
goes over the head a second time; and, where there is no soft cap, torch's `F.linear_cross_entropy` (since
2.13), as it stands and with its chunks. Each memory figure comes from a process of its own: the most it ever
held, less what it held before the loss (the stream, the head, torch). Times are taken in turns, a lap of each
way after the other, so that a busy neighbour meets all of them; the ratio is what counts.
"""

import argparse, importlib.util, json, math, os, subprocess, sys, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
import torch.nn.functional as F
from nanochat.loss import lm_loss, softcap, token_losses
from nanochat.runs import atomic_write
from nanochat.runtime import peak_rss_mb, provenance

VOCABULARIES, TOKENS, CHANNELS = (4096, 32768, 65536), 2048, 256

# ---- the ways: each a mean over the tokens of x (1,N,C), the head w (V,C), targets t (1,N) ----


def plain(x, w, t, cap, chunk=None):
    "What everybody writes first: all logits, float32 from the cap on, then torch's loss"
    logits = F.linear(x, w.to(x.dtype)).to(torch.promote_types(x.dtype, torch.float32))
    return F.cross_entropy(softcap(logits, cap).flatten(0, -2), t.flatten(), ignore_index=-1)


def ours(x, w, t, cap, chunk=None):
    return lm_loss(x, w, t, cap, chunk=chunk)


def each(x, w, t, cap, chunk=None):
    return token_losses(x, w, t, cap, chunk=chunk).mean()


def torch_linear(x, w, t, cap, chunk=None):
    assert not cap, "torch's linear_cross_entropy has no soft cap"
    return F.linear_cross_entropy(x[0], w.to(x.dtype), t[0])


def torch_chunks(x, w, t, cap, chunk=None):
    assert not cap, "torch's linear_cross_entropy has no soft cap"
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(x[0], w.to(x.dtype), t[0], options=options)


def old(file: str):
    "lm_loss of another loss.py"
    spec = importlib.util.spec_from_file_location("nanochat.older_loss", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def older(x, w, t, cap, chunk=None):
        return module.lm_loss(x, w, t, cap)

    return older


def ways(cap: float, file: str = "") -> dict:
    found = {"plain": plain, "lm_loss": ours, "token_losses": each}
    if not cap and hasattr(F, "linear_cross_entropy"):
        found |= {"linear_cross_entropy": torch_linear, "linear_cross_entropy, chunks": torch_chunks}
    return found | ({"old": old(file)} if file else {})


# ---- memory ----


def high_water() -> float:
    "Most memory of this process, in MB: Linux's own count; getrusage has the parent's from before exec, too"
    try:
        return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
    except OSError:
        return peak_rss_mb()


def forget_high_water():
    "Let Linux count the most memory anew from what is held now"
    try:
        open("/proc/self/clear_refs", "w").write("5")
    except OSError:
        pass


def child(way: str, shape: list, C: int, dtype: str, cap: float, chunk: int | None, file: str):
    "Forward and backward once; prints the memory that they added and the seconds that they took"
    B, T, V = shape
    torch.manual_seed(0)
    x = torch.randn(B, T, C).to(getattr(torch, dtype)).requires_grad_()
    w, t = torch.randn(V, C, requires_grad=True), torch.randint(V, (B, T))
    f = ways(cap, file)[way]
    f(x[:1, :2], w, t[:1, :2], cap).backward()  # wakes up the libraries, makes room for the gradients
    x.grad = w.grad = None
    forget_high_water()
    before, began = high_water(), time.perf_counter()
    loss = f(x, w, t, cap, chunk)
    loss.backward()
    found = dict(mb=round(high_water() - before, 1), seconds=round(time.perf_counter() - began, 2))
    print(json.dumps(dict(found, loss=loss.item(), grad=w.grad.norm().item())))


def peak(way, shape, C=CHANNELS, dtype="float32", cap=15.0, chunk=None, file="") -> dict:
    "Memory of one way at one size, in a process of its own"
    # freed blocks go back to the system at once, so that what is measured is what is used
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    told = json.dumps([way, shape, C, dtype, cap, chunk, file])
    done = subprocess.run(
        [sys.executable, __file__, "--child", told], capture_output=True, text=True, env=env
    )
    if done.returncode:
        raise SystemExit(
            f"error: {way} at {shape} ended with status {done.returncode} (out of memory?): "
            f"{done.stderr[-300:]}"
        )
    return json.loads(done.stdout)


def full() -> dict:
    "The shape of a GPU's step at depth 20, lm_loss only: the plain way would take 69 GB"
    shape, C = (32, 2048, 65536), 32
    found = peak("lm_loss", shape, C)
    logits_mb = round(math.prod(shape) * 4 / 2**20, 1)
    print(f"  {shape}: logits {logits_mb:,.0f} MB, peak {found['mb']:,.0f} MB, {found['seconds']:.0f} s")
    return dict(found, shape=shape, channels=C, logits_mb=logits_mb)


# ---- agreement ----


def difference(a, b) -> float:
    "Relative, or absolute where nothing should be"
    size = b.norm()
    return ((a - b).norm() / size.clamp(min=1e-30)).item() if size else a.norm().item()


def agreement(trials: int = 200) -> dict:
    """Largest relative difference from torch's cross_entropy in float64: losses and both gradients

    Over random shapes, caps, chunks and masks; of lm_loss, and of token_losses with random weights."""
    g, worst = torch.Generator().manual_seed(0), {}
    for k in range(trials):
        B, T, C, V = (int(torch.randint(1, n, (), generator=g)) for n in (5, 20, 12, 60))
        x, w = (
            torch.randn(*s, C, generator=g, dtype=torch.float64).requires_grad_() for s in ((B, T), (V,))
        )
        t = torch.randint(V, (B, T), generator=g).masked_fill(torch.rand(B, T, generator=g) < k / trials, -1)
        cap, chunk = ((0.0, 15.0, 2.0)[k % 3], (None, 7 * V, 1)[k // 3 % 3])
        weights = torch.randn(B, T, generator=g, dtype=torch.float64)
        logits = softcap(F.linear(x, w), cap).flatten(0, -2)
        theirs = F.cross_entropy(logits, t.flatten(), ignore_index=-1, reduction="none").view(B, T)
        pairs = dict(
            lm_loss=(lm_loss(x, w, t, cap, chunk=chunk), theirs.sum() / max(1, (t >= 0).sum())),
            token_losses=(
                (token_losses(x, w, t, cap, chunk=chunk) * weights).sum(),
                (theirs * weights).sum(),
            ),
        )
        for name, (a, b) in pairs.items():
            a, b = ((y, *torch.autograd.grad(y, (x, w), retain_graph=True)) for y in (a, b))
            found = worst.setdefault(name, dict(loss=0.0, grad_stream=0.0, grad_head=0.0))
            for part, p, q in zip(found, a, b):
                found[part] = max(found[part], difference(p, q))
    print(f"  {trials} random cases, largest relative differences: {worst}")
    return dict(trials=trials, **worst)


# ---- time and memory, side by side ----


def lap(f, x, w, t, cap) -> float:
    began = time.perf_counter()
    f(x, w, t, cap).backward()
    seconds = time.perf_counter() - began
    x.grad = w.grad = None
    return seconds


def head(file: str = "", laps: int = 7) -> dict:
    "Forward and backward: best time of some laps in turns, and the peak of memory"
    rows = []
    for V in VOCABULARIES:
        for dtype in ("float32", "bfloat16"):
            for cap in (15.0, 0.0):
                torch.manual_seed(0)
                x = torch.randn(1, TOKENS, CHANNELS).to(getattr(torch, dtype)).requires_grad_()
                w = torch.randn(V, CHANNELS).mul_(0.05).requires_grad_()
                t = torch.randint(V, (1, TOKENS))
                found = ways(cap, file)
                times = {way: [] for way in found}
                for _ in range(laps):
                    for way, f in found.items():
                        times[way].append(lap(f, x, w, t, cap))
                for way in found:
                    mb = peak(way, (1, TOKENS, V), CHANNELS, dtype, cap, file=file)["mb"]
                    seconds = min(times[way])
                    row = dict(vocab_size=V, dtype=dtype, cap=cap, way=way, seconds=seconds, mb=mb)
                    rows.append(dict(row, speed=min(times["plain"]) / seconds))
                    print(
                        f"  V {V:6,} {dtype:8} cap {cap:4} {way:28} {seconds:6.3f} s, "
                        f"{rows[-1]['speed']:5.2f} times plain's speed, peak {mb:7,.0f} MB"
                    )
    kept = [row for row in rows if row["way"] != "old"]
    return dict(tokens=TOKENS, channels=CHANNELS, laps=laps, load=os.getloadavg()[0], rows=kept)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("parts", nargs="*", help="agreement, head, full; default: all but full")
    p.add_argument("--old", default="", help="another loss.py to measure beside")
    p.add_argument(
        "--out", type=Path, default=here / "bench" / "results" / "loss.json", help="where the figures go"
    )
    p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        return child(*json.loads(a.child))
    parts = dict(agreement=agreement, head=lambda: head(a.old), full=full)
    if unknown := set(a.parts) - set(parts):
        p.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(parts)}")
    out = json.loads(a.out.read_text()) if a.out.exists() else {}
    out = {name: found for name, found in out.items() if name in parts}
    for name in a.parts or list(parts)[:-1]:
        print(name)
        found = parts[name]()
        out[name] = dict(
            figures=found,
            command=f"python bench/loss.py {name}",
            threads=torch.get_num_threads(),
            provenance=provenance(),
        )
        atomic_write(a.out, json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
