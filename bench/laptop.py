"""Run the laptop tier for several seeds from an empty folder, keep each run's summary in bench/results/, and hold it against the tier's goals.

    python bench/laptop.py [--seeds 0,1,2] [--base DIR]

Needs two quiet cores for about a quarter of an hour a seed. The summaries are what README and chapter 24 show.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent

def goals(s):
    "[(what, reached, asked for, ok)] of one summary"
    sc = lambda stage, k: s["scores"].get(stage, {}).get(k, {"score": 0, "lo": 0, "hi": 1, "n": 0})
    base, bigram = s["bpb"].get("base", 9), s["bpb"].get("bigram", 1)
    def moved(a, b, k): return sc(b, k)["score"] - sc(a, k)["score"], "clear of its interval", sc(b, k)["lo"] > sc(a, k)["hi"]
    wp = sc("sft", "word_problems")["score"]
    minutes = sum(v for v in s["seconds"].values())/60
    rows = [("stages, minutes", minutes, "10 at most", minutes <= 10), ("peak memory, MB", s["peak_rss_mb"], "under 4096", s["peak_rss_mb"] < 4096),
            ("base bits per byte against the bigram's", base/bigram, "0.60 at most", base <= 0.6*bigram), ("core after base", sc("base", "core")["score"], "0.80", sc("base", "core")["score"] >= 0.8),
            ("mc_easy after sft", sc("sft", "mc_easy")["score"], "0.70", sc("sft", "mc_easy")["score"] >= 0.7),
            ("mc_hard after sft", sc("sft", "mc_hard")["score"], "above 0.25 by its interval; goal 0.45", sc("sft", "mc_hard")["lo"] > 0.25),
            ("word_problems after sft", wp, "0.40 to 0.80", 0.4 <= wp <= 0.8), ("word_problems after rl", sc("rl", "word_problems")["score"], "10 points more", sc("rl", "word_problems")["score"] >= wp+0.1),
            ("identity after rl", sc("rl", "identity")["score"], "0.90", sc("rl", "identity")["score"] >= 0.9)]
    for what, a, b, k in (("mid moves mc_easy by", "base", "mid", "mc_easy"), ("sft moves identity by", "mid", "sft", "identity"), ("rl moves word_problems by", "sft", "rl", "word_problems")):
        rows.append((what, *moved(a, b, k)))
    return rows

def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--seeds", default="0,1,2"); ap.add_argument("--base", help="keep the runs in this folder")
    a = ap.parse_args()
    base = Path(a.base or tempfile.mkdtemp(prefix="nanochat-bench-")).resolve()
    bad = 0
    for seed in map(int, a.seeds.split(",")):
        run, t0 = f"bench-s{seed}", time.time()
        subprocess.run(["bash", str(here/"speedrun.sh"), "--tier", "laptop", "--seed", str(seed), "--run", run], check=True, env={**os.environ, "NANOCHAT_BASE_DIR": str(base)}, cwd=here)
        wall, res = time.time()-t0, base/"runs"/run/"results"
        s = json.loads((res/"summary.json").read_text())
        s["wall_seconds"], s["machine"] = round(wall), json.loads((res/"base.json").read_text())["provenance"]
        out = here/"bench"/"results"/f"laptop_seed{seed}.json"
        out.parent.mkdir(exist_ok=True); out.write_text(json.dumps(s, indent=1)+"\n")
        print(f"\nseed {seed}: {wall/60:.1f} minutes in all, kept in {out.relative_to(here)}")
        for what, got, want, ok in goals(s): print(f"  {'ok  ' if ok else 'MISS'} {what:42} {got:8.3f}   ({want})"); bad += not ok
    if not a.base: shutil.rmtree(base)
    sys.exit(1 if bad else 0)

if __name__ == "__main__": main()
