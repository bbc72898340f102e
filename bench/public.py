"""A run of real text and public questions to its end, on two cores.

    python bench/public.py --corpus DIR --task_dir DIR --core DIR [--base DIR] [--seed 0]

The laptop tier's model on prose that this course did not write, fine-tuned on conversations and school
problems, practised on GSM8K, and asked ARC, MMLU, GSM8K, HumanEval and CORE. A model of this size knows
nothing of these subjects: what is shown is that every real set works from end to end, how long that takes,
and how near guessing a score is, with its interval. Scores, controls, sources and seconds are kept in
bench/results/public.json, no question and no answer.
"""

import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
STAGES = ("base", "mid", "sft", "rl")
KEPT = ("score", "n", "lo", "hi", "too_long", "missing", "controls", "of_tasks")


def walk(a, base):
    "The typed command, from an empty folder; its wall seconds"
    command = [
        "bash",
        "speedrun.sh",
        "--run",
        "public",
        "--seed",
        str(a.seed),
        "--vocab_size",
        str(a.vocab_size),
    ]
    command += ["--corpus", str(a.corpus), "--task_dir", str(a.task_dir), "--core", str(a.core)]
    began = time.perf_counter()
    subprocess.run(command, cwd=here, check=True, env={**os.environ, "NANOCHAT_BASE_DIR": str(base)})
    return time.perf_counter() - began


def kept(rdir, wall):
    "What the run's results say, without a word of the sets"
    from nanochat.runtime import provenance

    summary = json.loads((rdir / "results" / "summary.json").read_text())
    plan = json.loads((rdir / "settings.json").read_text())
    exams = {stage: json.loads((rdir / "results" / f"tasks_{stage}.json").read_text()) for stage in STAGES}
    scores = {
        stage: {name: {k: mark[k] for k in KEPT if k in mark} for name, mark in exam["scores"].items()}
        for stage, exam in exams.items()
    }
    measured = json.loads((rdir / "results" / "evaluate_base.json").read_text())
    return dict(
        wall_seconds=wall,
        seconds=summary["seconds"],
        peak_rss_mb=summary["peak_rss_mb"],
        params=summary["params"],
        tokens=summary["tokens"],
        bpb=summary["bpb"],
        error=measured["error"],
        cropped=measured.get("cropped"),
        scores=scores,
        sources={stage: exam["sources"] for stage, exam in exams.items()},
        plan={name: plan[name] for name in ("tier", "seed", "depth", "vocab_size", "seq_len", "eval_n")},
        provenance=provenance(),
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--corpus", type=Path, required=True)
    p.add_argument("--task_dir", type=Path, required=True)
    p.add_argument("--core", type=Path, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--vocab_size", type=int, default=4096, help="prose has more words than the world")
    p.add_argument("--base", type=Path, help="an empty folder; default: a temporary one")
    p.add_argument("--out", type=Path, default=here / "bench" / "results" / "public.json")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = a.base or Path(temporary)
        wall = walk(a, base.resolve())
        found = kept(base / "runs" / "public", wall)
    a.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{wall / 60:.1f} minutes; kept in {a.out}")


if __name__ == "__main__":
    main()
