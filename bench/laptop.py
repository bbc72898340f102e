"""Run the laptop tier for several seeds from an empty folder, keep each run's summary in bench/results/, and hold it against the tier's goals.

    python bench/laptop.py [--seeds 0,1,2] [--base DIR]
    python bench/laptop.py --readme        # only write the README's tables from what is kept

Needs two quiet cores for about a quarter of an hour a seed. The summaries are what README and chapter 24 show.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
STAGES = ("base", "mid", "sft", "rl")
METRICS = ("core", "mc_easy", "mc_hard", "word_problems", "code", "spelling", "identity", "mean")

def goals(s):
    "[(what, reached, asked for, ok)] of one summary"
    sc = lambda stage, k: s["scores"].get(stage, {}).get(k, {"score": 0, "lo": 0, "hi": 1, "n": 0})
    base, bigram = s["bpb"].get("base", 9), s["bpb"].get("bigram", 1)
    def moved(a, b, k): return sc(b, k)["score"] - sc(a, k)["score"], "clear of its interval", sc(b, k)["lo"] > sc(a, k)["hi"]
    wp = sc("sft", "word_problems")["score"]
    minutes = sum(s["seconds"].values())/60
    rows = [("the command, minutes", s["wall_seconds"]/60, "12 at most", s["wall_seconds"] <= 720), ("stages, minutes", minutes, "10 at most", minutes <= 10),
            ("peak memory, MB", s["peak_rss_mb"], "under 4096", s["peak_rss_mb"] < 4096),
            ("base bits per byte against the bigram's", base/bigram, "0.60 at most", base <= 0.6*bigram), ("core after base", sc("base", "core")["score"], "0.80", sc("base", "core")["score"] >= 0.8),
            ("mc_easy after sft", sc("sft", "mc_easy")["score"], "0.70", sc("sft", "mc_easy")["score"] >= 0.7),
            ("mc_hard after sft", sc("sft", "mc_hard")["score"], "0.45, and above 0.25 by its interval", sc("sft", "mc_hard")["lo"] > 0.25 and sc("sft", "mc_hard")["score"] >= 0.45),
            ("word_problems after sft", wp, "0.40 to 0.80", 0.4 <= wp <= 0.8), ("word_problems after rl", sc("rl", "word_problems")["score"], "10 points more", sc("rl", "word_problems")["score"] >= wp+0.1),
            ("identity after sft", sc("sft", "identity")["score"], "0.70", sc("sft", "identity")["score"] >= 0.7),
            ("products called and right", s["products"]["right"]/s["products"]["n"], "0.90", s["products"]["right"] >= 0.9*s["products"]["n"])]
    for what, a, b, k in (("mid moves mc_easy by", "base", "mid", "mc_easy"), ("sft moves identity by", "mid", "sft", "identity"), ("rl moves word_problems by", "sft", "rl", "word_problems")):
        rows.append((what, *moved(a, b, k)))
    return rows

def products(run, n=50):
    "Ask the run's last model for n products of numbers that it never saw together, token by token at temperature 1: how many replies call the calculator, and how many do and end in the right product"
    sys.path.insert(0, str(here))
    import random
    from nanochat.chat import ToolUse, load_chat, parts_text, render_prompt, stop_ids
    from nanochat.engine import Engine
    from nanochat.tasks import final_number
    from nanochat.world import is_test_pair
    model, tok, _ = load_chat(run); rng = random.Random(0)
    pairs = [p for p in ((rng.randint(2, 99), rng.randint(2, 99)) for _ in range(50*n)) if is_test_pair(*p)][:n]
    prompts = [render_prompt(tok, [dict(role="user", content=f"What is {a} * {b}?")]) for a, b in pairs]
    ends = stop_ids(tok)
    rows = Engine(model, max_rows=n).generate(prompts, max_tokens=64, temperature=1., stop_ids=ends, hook=lambda: ToolUse(tok))
    called = [not all(r.sampled) for r in rows]                    # a result was put in: the call was the model's own
    right = [c and final_number(parts_text(tok, [i for i in r.ids if i not in ends])) == a*b for r, c, (a, b) in zip(rows, called, pairs)]
    return dict(n=n, called=sum(called), right=sum(right))

def tables(kept:dict)->str:
    "The README's tables of the kept summaries: the first seed's scores, and what it took for all"
    first = next(iter(kept.values())); m = first["machine"]
    cell = lambda v: f"{v['score']:.0%} ({v['lo']:.0%}–{v['hi']:.0%})" if v else ""
    out = [f"Seed {first['seed']}: right answers with their 95% intervals, on questions held out from training.", "", "| | n | " + " | ".join(map(str.upper, STAGES)) + " |", "|---|---:|" + "---|"*4]
    for k in METRICS: out.append(f"| {k} | {first['scores']['sft'][k]['n']} | " + " | ".join(cell(first["scores"].get(st, {}).get(k)) for st in STAGES) + " |")
    out += ["", "| seed | the whole command | its stages | peak memory | bits per byte: bigram → BASE | core after BASE | mc_easy, mc_hard after SFT | word problems SFT → RL | identity after SFT | products right, by calculator |", "|---:|---|---|---|---|---|---|---|---|---|"]
    pc = lambda s, st, k: f"{s['scores'][st][k]['score']:.0%}"
    for s in kept.values():
        out.append(f"| {s['seed']} | {s['wall_seconds']/60:.1f} min | {sum(s['seconds'].values())/60:.1f} min | {s['peak_rss_mb']/1024:.1f} GB | {s['bpb']['bigram']:.3f} → {s['bpb']['base']:.3f} | {pc(s, 'base', 'core')} "
                   f"| {pc(s, 'sft', 'mc_easy')}, {pc(s, 'sft', 'mc_hard')} | {pc(s, 'sft', 'word_problems')} → {pc(s, 'rl', 'word_problems')} | {pc(s, 'sft', 'identity')} | {s['products']['right']} of {s['products']['n']} |")
    out += ["", f"{first['params']/1e6:.1f}M parameters, {first['tokens']['base']/1e6:.1f}M tokens of pretraining. Measured with {m['cores']} cores of one {m['cpu']} ({m['dtype']} matmul: {m['peak_flops']/1e9:.0f} GFLOP/s), "
            f"Python {m['python']}, torch {m['torch']}, by `python bench/laptop.py`; the summaries are kept in `bench/results/`."]
    return "\n".join(out)

def kept_summaries()->dict: return {p.stem: json.loads(p.read_text()) for p in sorted((here/"bench"/"results").glob("laptop_seed*.json"))}

def write_readme():
    "Put the tables between the README's two marks"
    p = here/"README.md"; text = p.read_text(encoding="utf-8"); a, b = "<!-- laptop -->\n", "\n<!-- /laptop -->"
    before, rest = text.split(a); _, after = rest.split(b)
    p.write_text(before+a+tables(kept_summaries())+b+after, encoding="utf-8")

def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--seeds", default="0,1,2"); ap.add_argument("--base", help="keep the runs in this folder"); ap.add_argument("--readme", action="store_true", help="only write the README's tables")
    a = ap.parse_args()
    if a.readme: return write_readme()
    base = Path(a.base or tempfile.mkdtemp(prefix="nanochat-bench-")).resolve()
    bad = 0
    for seed in map(int, a.seeds.split(",")):
        run, t0 = f"bench-s{seed}", time.time()
        if (base/"runs"/run).exists(): sys.exit(f"error: {base/'runs'/run} is there already: a time that begins in the middle is no measurement; give an empty --base")
        subprocess.run(["bash", str(here/"speedrun.sh"), "--tier", "laptop", "--seed", str(seed), "--run", run], check=True, env={**os.environ, "NANOCHAT_BASE_DIR": str(base)}, cwd=here)
        wall, res = time.time()-t0, base/"runs"/run/"results"
        s, b = (json.loads((res/f"{k}.json").read_text()) for k in ("summary", "base"))
        s["wall_seconds"], s["machine"] = round(wall), dict(b["provenance"], dtype=b["dtype"], peak_flops=b["peak_flops"])
        os.environ["NANOCHAT_BASE_DIR"] = str(base); s["products"] = products(run)
        out = here/"bench"/"results"/f"laptop_seed{seed}.json"
        out.parent.mkdir(exist_ok=True); out.write_text(json.dumps(s, indent=1)+"\n")
        print(f"\nseed {seed}: {wall/60:.1f} minutes in all, kept in {out.relative_to(here)}")
        for what, got, want, ok in goals(s): print(f"  {'ok  ' if ok else 'MISS'} {what:42} {got:8.3f}   ({want})"); bad += not ok
    write_readme()
    if not a.base: shutil.rmtree(base)
    sys.exit(1 if bad else 0)

if __name__ == "__main__": main()
