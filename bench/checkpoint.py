"""For how long a checkpoint stops the training, beside a step and beside the whole checkpoint.

    python bench/checkpoint.py           the laptop tier's model and the rehearsal's, half a minute

In turns: a training step, and a checkpoint whose writing is left to a thread (chapter 14). Stopped is the
time until training could go on; whole the time until the files are there, with nothing else going on. One
process; with several, gathering the optimizer's state comes on top. Medians.
"""

import argparse, json, os, statistics, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.pretrain import Background, Training, new_model, new_optimizer, save_checkpoint, train_step
from nanochat.runs import atomic_write
from nanochat.runtime import keep_memory, provenance
from nanochat.scaling import LAPTOP, plan_tier, recipe_plan, shrink


def plans() -> dict:
    "What is measured: the plans by name"
    return {"laptop": LAPTOP, "rehearsal of depth 24": shrink(recipe_plan(plan_tier("full")))}


def seconds_of(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(plan, laps: int) -> dict:
    "Medians of a step, of the time in which a checkpoint stops it, and of a whole checkpoint"
    model = new_model(plan, torch.device("cpu"), torch.float32)
    training = Training(model, new_optimizer(model, plan.base))
    ids_BT = torch.randint(plan.vocab_size, (plan.base.rows, plan.seq_len + 1))
    batch = [(ids_BT[:, :-1], ids_BT[:, 1:], None)]
    times = dict(step=[], stopped=[], whole=[])
    with tempfile.TemporaryDirectory() as folder, Background() as background:

        def save():
            training.step += 1
            save_checkpoint(Path(folder), "base", training, background.start, seed=0, loss=0.0)

        for _ in range(laps + 1):
            times["step"].append(seconds_of(lambda: train_step(model, training.opt, batch)))
            start = time.perf_counter()
            times["stopped"].append(seconds_of(save))
            background.finish()
            times["whole"].append(time.perf_counter() - start)
    found = {name: statistics.median(t[1:]) for name, t in times.items()}  # the first lap wakes everything up
    return dict(seconds=found, laps=times, stopped_in_steps=found["stopped"] / found["step"])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--laps", type=int, default=15)
    p.add_argument("--out", type=Path, default=here / "bench" / "results" / "checkpoint.json")
    a = p.parse_args()
    keep_memory()
    load, figures = os.getloadavg()[0], {}
    for name, plan in plans().items():
        figures[name] = found = measure(plan, a.laps)
        step, stopped, whole = (1000 * found["seconds"][part] for part in ("step", "stopped", "whole"))
        print(f"{name}: a step {step:.1f} ms, stopped for {stopped:.1f}, written after {whole:.1f}")
    out = dict(figures=figures, threads=torch.get_num_threads(), load_before=load, provenance=provenance())
    atomic_write(a.out, json.dumps(out, indent=1) + "\n")
    if any(found["stopped_in_steps"] >= 1 for found in figures.values()):
        print("goal missed: a checkpoint stops the training for longer than a step")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
