"""Run the laptop tier for several seeds from an empty folder, and hold each summary against the tier's goals.

    python bench/laptop.py [--seeds 0,1,2] [--base DIR]
    python bench/laptop.py --readme        # only write the README's tables from what is kept

Needs two quiet cores for about a quarter of an hour a seed. The summaries are kept in bench/results/; README
and chapter 24 show them. The speed of a matmul is measured before and after each run: a machine's speed
changes from hour to hour, and a slow hour can be told from slow code only where it was measured.
"""

import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
STAGES = ("base", "mid", "sft", "rl")
METRICS = ("core", "mc_easy", "mc_hard", "word_problems", "code", "spelling", "identity", "talk", "mean")
NO_SCORE = {"score": 0, "lo": 0, "hi": 1, "n": 0}


def goals(summary):
    "[(what, reached, asked for, ok)] of one summary"

    def score(stage, metric):
        return summary["scores"].get(stage, {}).get(metric, NO_SCORE)

    rows = []

    def at_least(what, reached, least):
        rows.append((what, reached, f"{least:.2f}", reached >= least))

    wall, minutes = summary["wall_seconds"] / 60, sum(summary["seconds"].values()) / 60
    rows.append(("the command, minutes", wall, "12 at most", wall <= 12))
    rows.append(("stages, minutes", minutes, "10 at most", minutes <= 10))
    rows.append(("peak memory, MB", summary["peak_rss_mb"], "under 4096", summary["peak_rss_mb"] < 4096))
    share = summary["bpb"].get("base", 9) / summary["bpb"].get("bigram", 1)
    rows.append(("base bits per byte against the bigram's", share, "0.60 at most", share <= 0.6))
    at_least("core after base", score("base", "core")["score"], 0.8)
    at_least("mc_easy after sft", score("sft", "mc_easy")["score"], 0.7)
    hard = score("sft", "mc_hard")
    asked = "0.45, and above 0.25 by its interval"
    rows.append(("mc_hard after sft", hard["score"], asked, hard["lo"] > 0.25 and hard["score"] >= 0.45))
    before, after = score("sft", "word_problems")["score"], score("rl", "word_problems")["score"]
    rows.append(("word_problems after sft", before, "0.40 to 0.80", 0.4 <= before <= 0.8))
    rows.append(("word_problems after rl", after, "10 points more", after >= before + 0.1))
    at_least("identity after sft", score("sft", "identity")["score"], 0.7)
    at_least("talk after sft", score("sft", "talk")["score"], 0.7)
    at_least("products called and right", summary["products"]["right"] / summary["products"]["n"], 0.9)
    moves = (("base", "mid", "mc_easy"), ("mid", "sft", "identity"), ("sft", "rl", "word_problems"))
    for earlier, later, metric in moves:
        old, new = score(earlier, metric), score(later, metric)
        what = f"{later} moves {metric} by"
        rows.append((what, new["score"] - old["score"], "clear of its interval", new["lo"] > old["hi"]))
    return rows


def clock(dtype):
    "The speed of a matmul in GFLOP/s, measured in a process of its own, as the run's own processes are"
    code = (
        "import torch; from nanochat.runtime import matmul_flops; print(matmul_flops(torch.{}, repeats=20))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(dtype)],
        capture_output=True,
        text=True,
        check=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
    )
    return round(float(done.stdout) / 1e9, 1)


def clock_words(summary):
    "What the matmul clock showed before and after a run; empty for a record from before it was kept"
    clocks = summary.get("matmul_gflops")
    if not clocks:
        return ""
    return ", ".join(f"{dtype} {c['before']:.0f} → {c['after']:.0f}" for dtype, c in clocks.items())


def products(run, n=50):
    """Ask the run's last model for n products of numbers that it never saw together

    Token by token at temperature 1: how many replies call the calculator, and how many of those end in the
    right product."""
    sys.path.insert(0, str(here))
    import random
    from nanochat.chat import ToolUse, load_chat, parts_text, render_prompt, stop_ids
    from nanochat.engine import Engine
    from nanochat.tasks import final_number
    from nanochat.world import is_test_pair

    model, tok, _ = load_chat(run)
    rng = random.Random(0)
    drawn = ((rng.randint(2, 99), rng.randint(2, 99)) for _ in range(50 * n))
    pairs = [pair for pair in drawn if is_test_pair(*pair)][:n]
    questions = [[dict(role="user", content=f"What is {a} * {b}?")] for a, b in pairs]
    prompts = [render_prompt(tok, question) for question in questions]
    ends = stop_ids(tok)
    engine = Engine(model, max_rows=n)
    rows = engine.generate(prompts, max_tokens=64, temperature=1.0, stop_ids=ends, hook=lambda: ToolUse(tok))
    called = [not all(row.sampled) for row in rows]  # a result was put in: the call was the model's own
    replies = [parts_text(tok, [i for i in row.ids if i not in ends]) for row in rows]
    right = [c and final_number(reply) == a * b for reply, c, (a, b) in zip(replies, called, pairs)]
    return dict(n=n, called=sum(called), right=sum(right))


def percent(score):
    "A score and its interval as the tables have them; nothing where a metric was not run"
    return f"{score['score']:.0%} ({score['lo']:.0%}–{score['hi']:.0%})" if score else ""


COLUMNS = (
    "seed",
    "the whole command",
    "its stages",
    "peak memory",
    "bits per byte: bigram → BASE",
    "core after BASE",
    "mc_easy, mc_hard after SFT",
    "word problems SFT → RL",
    "identity, talk after SFT",
    "products right, by calculator",
)


def table_row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def seed_row(summary):
    "The line of one seed in the README's second table"

    def score(stage, metric):
        return f"{summary['scores'][stage][metric]['score']:.0%}"

    return table_row(
        (
            summary["seed"],
            f"{summary['wall_seconds'] / 60:.1f} min",
            f"{sum(summary['seconds'].values()) / 60:.1f} min",
            f"{summary['peak_rss_mb'] / 1024:.1f} GB",
            f"{summary['bpb']['bigram']:.3f} → {summary['bpb']['base']:.3f}",
            score("base", "core"),
            f"{score('sft', 'mc_easy')}, {score('sft', 'mc_hard')}",
            f"{score('sft', 'word_problems')} → {score('rl', 'word_problems')}",
            f"{score('sft', 'identity')}, {score('sft', 'talk')}",
            f"{summary['products']['right']} of {summary['products']['n']}",
        )
    )


def tables(kept: dict) -> str:
    "The README's tables of the kept summaries: the first seed's scores, and what it took for all"
    first = next(iter(kept.values()))
    machine = first["machine"]
    intro = "right answers with their 95% intervals, on questions held out from training."
    out = [f"Seed {first['seed']}: {intro}", ""]
    out += [table_row(["", "n", *map(str.upper, STAGES)]).replace("|  |", "| |"), "|---|---:|" + "---|" * 4]
    for metric in METRICS:
        cells = [percent(first["scores"].get(stage, {}).get(metric)) for stage in STAGES]
        out.append(table_row([metric, first["scores"]["sft"][metric]["n"], *cells]))
    out += ["", table_row(COLUMNS), "|---:|" + "---|" * (len(COLUMNS) - 1)]
    out += [seed_row(summary) for summary in kept.values()]
    params, tokens = first["params"] / 1e6, first["tokens"]["base"] / 1e6
    size = f"{params:.1f}M parameters, {tokens:.1f}M tokens of pretraining."
    speed = f"{machine['dtype']} matmul: {machine['peak_flops'] / 1e9:.0f} GFLOP/s"
    where = f"with {machine['cores']} cores of one {machine['cpu']} ({speed})"
    versions = f"Python {machine['python']}, torch {machine['torch']}, by `python bench/laptop.py`"
    out += ["", f"{size} Measured {where}, {versions}; the summaries are kept in `bench/results/`."]
    clocks = [f"seed {s['seed']}: {clock_words(s)}" for s in kept.values() if clock_words(s)]
    if clocks:
        out[-1] += f" The matmul clock before → after each run, in GFLOP/s: {'; '.join(clocks)}."
    return "\n".join(out)


def kept_summaries() -> dict:
    "{name: summary} of the seeds kept in bench/results"
    files = sorted((here / "bench" / "results").glob("laptop_seed*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def write_readme():
    "Put the tables between the README's two marks"
    readme = here / "README.md"
    text, begin, end = readme.read_text(encoding="utf-8"), "<!-- laptop -->\n", "\n<!-- /laptop -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    readme.write_text(before + begin + tables(kept_summaries()) + end + after, encoding="utf-8")


def measure(base, seed):
    "Run the tier for one seed, from an empty folder: its summary, with the time it took and the machine"
    run, results = f"bench-s{seed}", base / "runs" / f"bench-s{seed}" / "results"
    if (base / "runs" / run).exists():
        sys.exit(
            f"error: {base / 'runs' / run} is there already: a time that begins in the middle "
            "is no measurement; give an empty --base"
        )
    before = {dtype: clock(dtype) for dtype in ("float32", "bfloat16")}
    command = ["bash", str(here / "speedrun.sh"), "--tier", "laptop", "--seed", str(seed), "--run", run]
    # kernels that an earlier run has built would save this one a minute that a reader's first run has to pay
    folders = dict(NANOCHAT_BASE_DIR=str(base), TORCHINDUCTOR_CACHE_DIR=str(base / "kernels" / run))
    began = time.time()
    subprocess.run(command, check=True, env={**os.environ, **folders}, cwd=here)
    wall = time.time() - began
    clocks = {dtype: dict(before=speed, after=clock(dtype)) for dtype, speed in before.items()}
    summary, stage = (json.loads((results / f"{name}.json").read_text()) for name in ("summary", "base"))
    summary["wall_seconds"] = round(wall)
    summary["machine"] = dict(stage["provenance"], dtype=stage["dtype"], peak_flops=stage["peak_flops"])
    summary["matmul_gflops"] = clocks
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    summary["products"] = products(run)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--base", help="keep the runs in this folder")
    parser.add_argument("--readme", action="store_true", help="only write the README's tables")
    args = parser.parse_args()
    if args.readme:
        return write_readme()
    base = Path(args.base or tempfile.mkdtemp(prefix="nanochat-bench-")).resolve()
    missed = 0
    for seed in map(int, args.seeds.split(",")):
        summary = measure(base, seed)
        out = here / "bench" / "results" / f"laptop_seed{seed}.json"
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(summary, indent=1) + "\n")
        minutes = summary["wall_seconds"] / 60
        print(f"\nseed {seed}: {minutes:.1f} minutes in all, kept in {out.relative_to(here)}")
        print(f"  matmul clock before → after, GFLOP/s: {clock_words(summary)}")
        for what, reached, asked, ok in goals(summary):
            print(f"  {'ok  ' if ok else 'MISS'} {what:42} {reached:8.3f}   ({asked})")
            missed += not ok
    write_readme()
    if not args.base:
        shutil.rmtree(base)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
