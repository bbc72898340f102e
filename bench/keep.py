"""Keep the four models of a run in bfloat16, without optimizers: small enough to lie in a repository.

    python bench/keep.py --run laptop-world-d4-s0        kept in nbs/first_run, as the run `first`

What is kept is a run like any other, and can be talked to:

    NANOCHAT_BASE_DIR=nbs/first_run python -m nanochat.chat --run first --stage sft --prompt "Who are you?"

It can't be trained on: the optimizers' state is not there. `kept.json` says which run it was, and where and
when it was made.
"""

import argparse, json, os, shutil, sys
from functools import partial
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from safetensors.torch import load_file, save_file
from nanochat.runs import STAGES, last_checkpoint, run_dir, write_checked


def small(weights: dict) -> dict:
    "Weights in bfloat16; whole numbers stay what they are"
    return {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def keep(rdir: Path, out: Path) -> dict:
    "Copy what a conversation needs, and the scores; what was kept"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(rdir / "tokenizer", out / "tokenizer", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(rdir / "settings.json", out)
    (out / "results").mkdir()
    shutil.copy(rdir / "results" / "summary.json", out / "results")
    kept = {}
    for stage in STAGES:
        step, path, meta = last_checkpoint(rdir, stage)
        meta = {name: value for name, value in meta.items() if name != "files"}  # which are listed anew
        weights = small(load_file(path / "model.safetensors"))
        write_checked(out / stage / path.name, {"model.safetensors": partial(save_file, weights)}, meta)
        kept[stage] = step
    return kept


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--run", required=True, help="a finished run")
    p.add_argument("--out", type=Path, default=here / "nbs" / "first_run", help="a base folder")
    a = p.parse_args()
    rdir = run_dir(a.run, must_exist=True)
    os.umask(0o022)
    steps = keep(rdir, a.out / "runs" / "first")
    took = {stage: json.loads((rdir / "results" / f"{stage}.json").read_text()) for stage in STAGES}
    about = dict(
        command=f"python bench/keep.py --run {a.run}",
        run=a.run,
        steps=steps,
        seconds={stage: result["seconds"] for stage, result in took.items()},
        provenance=took["base"]["provenance"],
    )
    (a.out / "kept.json").write_text(json.dumps(about, indent=1) + "\n")
    size = sum(path.stat().st_size for path in a.out.rglob("*") if path.is_file())
    print(f"kept in {a.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
