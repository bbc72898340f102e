"""A timeline of one optimizer step on several processes: what each computes, and when messages travel.

    python bench/timeline.py                   two processes over gloo, half a minute
    python bench/timeline.py --processes 4

Torch's profiler writes down in every process when each group of parameters is sent, awaited, stepped and
taken up, and when gloo's threads have a message in their hands: from taking it up until it is there. One
model: 4 layers, 256 wide, vocabulary 4,096, every switch of chapter 09 on; each process has one thread, and
the gradient of rows of its own. Two ways to step, in turns: `MuonAdamW`'s, which has all gradients on their
way before the first group is stepped, and one group after the other, nothing being sent before the last
message is there. Of each way the lap with the median time is kept, span by span.
"""

import argparse, json, os, re, statistics, sys, tempfile
from collections import Counter
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch, torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function
from nanochat import distributed
from nanochat.distributed import MuonAdamW, launch, param_groups
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.runs import atomic_write
from nanochat.runtime import end_dist, init_dist, provenance

SHAPE = dict(vocab_size=4096, seq_len=64, n_layer=4, n_embd=256, n_head=4, n_kv_head=4, **MODERN)
ROWS = 4  # of each process
# of a group: its gradients are laid together and sent off; waiting for their mean, stepping the own share and
# sending it off; of these the stepping and the waiting; taking up everybody's
WORK = ("whole", "send", "share", "step", "wait", "take up")
MESSAGES = ("reduce", "gather")


# --- spans: [process, kind, number of the group, start, length], both in milliseconds ---


def merged(spans) -> list[tuple[float, float]]:
    "(start, end) of the times in which at least one of some spans is open, in order"
    out = []
    for start, length in sorted((start, length) for *_, start, length in spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], start + length)
        else:
            out.append((start, start + length))
    return out


def common(a, b) -> float:
    "Milliseconds in which a span of both lists is open"
    pairs = ((max(s, t), min(e, f)) for s, e in merged(a) for t, f in merged(b))
    return sum(end - start for start, end in pairs if end > start)


def figures(spans, process: int) -> dict[str, float]:
    "What one process did with its time, in milliseconds"
    own = [span for span in spans if span[0] == process]
    of = {kind: [span for span in own if span[1] == kind] for kind in ("step", "wait", "whole")}
    messages = [span for span in own if span[1] in MESSAGES]
    lengths = dict(
        whole=common(of["whole"], of["whole"]),
        steps=common(of["step"], of["step"]),
        waits=common(of["wait"], of["wait"]),
        messages=common(messages, messages),
        steps_during_messages=common(of["step"], messages),
    )
    return {name: round(ms, 3) for name, ms in lengths.items()}


# --- what each process does ---


def named(name, work):
    "The same work, under a name that the profiler writes down"

    def watched(*given):
        with record_function(name):
            return work(*given)

    return watched


def watch(opt):
    "Have the work of every group recorded, and the time until its messages are there"
    for number, part in enumerate(opt.sending):
        part.send = named(f"send {number}", part.send)
        part.step = named(f"share {number}", part.step)
        part._step_own = named(f"step {number}", part._step_own)
        part.finish = named(f"take up {number}", part.finish)
    for start in ("start_mean", "start_gather", "_start_flat_mean"):
        setattr(distributed, start, awaited(getattr(distributed, start)))


def awaited(start):
    "The same message; waiting for it is recorded"
    return lambda *given: named("wait -1", start(*given))


def one_after_the_other(opt):
    "A step in which every message is awaited before anything else is begun"
    opt.steps_taken += 1
    with torch.no_grad():
        for part, numbers in zip(opt.sending, opt._numbers()):
            part.send()
            part.step(numbers)
            part.finish()


WAYS = {"together": MuonAdamW.step, "one after the other": one_after_the_other}


def messages_of(part, world: int) -> list[str]:
    "What a group sends in a step, without its number: reduces, then gathers"
    if part.group["kind"] == "muon":
        return ["reduce", "gather"]
    small = len(part.tables) < len(part.params)  # travel together, and nobody gathers them
    return ["reduce"] * (len(part.tables) + small) + ["gather"] * len(part.tables)


def spans_of(trace: dict, opt) -> list[list]:
    "The recorded spans of a trace as the profiler exports it; times since some moment long ago"
    sent = [(kind, n) for n, part in enumerate(opt.sending) for kind in messages_of(part, opt.world)]
    waiting = {kind: [n for k, n in sent if k == kind] for kind in MESSAGES}
    events = sorted((e for e in trace["traceEvents"] if e.get("ph") == "X"), key=lambda event: event["ts"])
    spans = []
    for event in events:
        kind, _, number = event["name"].rpartition(" ")
        if event["name"].startswith("gloo:"):  # messages of a kind are taken up in the order of sending
            kind = "gather" if "gather" in event["name"] else "reduce"
            number = waiting[kind].pop(0)
        if kind in (*WORK, *MESSAGES):
            spans.append([opt.rank, kind, int(number), event["ts"] / 1000, event["dur"] / 1000])
    assert not any(waiting.values()), "a message was not recorded"
    return spans


def recorded(opt, step, file: Path) -> tuple[list, dict]:
    "Spans of one watched step, by way of a file, and how often each of gloo's own names was recorded"
    dist.barrier()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        named("whole -1", step)(opt)
    profiler.export_chrome_trace(str(file))
    trace = json.loads(file.read_text())
    names = Counter(e["name"] for e in trace["traceEvents"] if e.get("name", "").startswith("gloo:"))
    return spans_of(trace, opt), names


def work(folder: Path, laps: int):
    "One process: all laps of both ways, its spans in a file"
    rank, world = init_dist(torch.device("cpu"))
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SHAPE))
    opt = MuonAdamW(param_groups(model))
    watch(opt)
    x = torch.randint(SHAPE["vocab_size"], (world * ROWS, SHAPE["seq_len"] + 1)).chunk(world)[rank]
    ways = {way: [] for way in WAYS}
    for lap in range(laps + 1):
        for way, step in WAYS.items():
            model(x[:, :-1], x[:, 1:]).backward()
            spans, names = recorded(opt, step, folder / f"trace-{rank}.json")
            opt.zero_grad()
            if lap:  # the first one wakes everything up
                ways[way].append(spans)
    found = dict(ways=ways, groups=[label(part.group) for part in opt.sending], gloo=names)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    end_dist()


def label(group) -> str:
    "A group's name in the picture"
    if group["kind"] == "muon":
        return f"{len(group['params'])} of " + "×".join(map(str, group["params"][0].shape))
    return group["of"]


# --- all of them together ---


def duration(spans) -> float:
    "Milliseconds from the first process's beginning to the last one's end"
    wholes = [(start, start + length) for _, kind, _, start, length in spans if kind == "whole"]
    return max(end for _, end in wholes) - min(start for start, _ in wholes)


def median_lap(laps) -> dict:
    "The lap with the median time, counted from its beginning, and how long each took"
    times = [duration(spans) for spans in laps]
    spans = laps[times.index(statistics.median_low(times))]
    begin = min(start for *_, start, _ in spans)
    spans = [[*who, round(start - begin, 3), round(length, 3)] for *who, start, length in spans]
    processes = range(1 + max(span[0] for span in spans))
    return dict(
        milliseconds=round(statistics.median_low(times), 3),
        laps=[round(ms, 3) for ms in times],
        figures=[figures(spans, process) for process in processes],
        spans=spans,
    )


def measure(processes: int, laps: int) -> dict:
    "Both ways, and the names of the groups in the order of sending"
    with tempfile.TemporaryDirectory() as folder:
        env = dict(PYTHONPATH=os.pathsep.join(sys.path), NANOCHAT_DEVICE="cpu", OMP_NUM_THREADS="1")
        env |= dict(KINETO_LOG_LEVEL="99")  # else the profiler tells the terminal when it begins and ends
        if status := launch(processes, [__file__, "--folder", folder, "--laps", str(laps)], **env):
            raise SystemExit(status)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    laps_of = {way: zip(*(each["ways"][way] for each in found)) for way in WAYS}
    ways = {way: median_lap([sum(lap, []) for lap in laps]) for way, laps in laps_of.items()}
    return dict(groups=found[0]["groups"], gloo=found[0]["gloo"], ways=ways)


def one_line(found) -> str:
    "A list of plain values on a line of its own"
    return "[" + re.sub(r",\s+", ", ", found[1]) + "]"


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--laps", type=int, default=15)
    p.add_argument("--out", type=Path, default=here / "bench" / "results" / "timeline.json")
    p.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # what a process is told by the first
    a = p.parse_args()
    if a.folder:
        return work(a.folder, a.laps)
    load = os.getloadavg()[0]
    found = measure(a.processes, a.laps)
    for way, lap in found["ways"].items():
        print(f"{way:20} {lap['milliseconds']:7.1f} ms", *lap["figures"], sep="\n    ")
    out = dict(shape=SHAPE, rows=ROWS, processes=a.processes, **found)
    out |= dict(load_before=load, provenance=provenance())
    words = re.sub(r"\[\s+([^][{}]*?)\s+\]", one_line, json.dumps(out, indent=1, ensure_ascii=False))
    atomic_write(a.out, words + "\n")


if __name__ == "__main__":
    main()
