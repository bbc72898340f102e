"What goes wrong in one process of several: all notice it together, nothing hangs, nothing bad is kept"

import re, shutil
import pytest
from conftest import ROOT, TINY, Run, launched, lines_of, refused

STEPS = 12


def train(base, name, fault, steps=STEPS, **env):
    "Pretrain by two processes, with a fault in the second"
    args = (ROOT / "tests" / "faulty.py", "--run", name, *TINY, "--save_every", 6, "--num_iterations", steps)
    done = launched(2, *args, base=base, timeout=200, FAULT=fault, **env)
    return Run(base, name), done


def losses(run):
    return [line["loss"] for line in lines_of(run.dir, "base")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    base = tmp_path_factory.mktemp("faults")
    run, done = train(base, "straight", "none:0")
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_out_of_memory_in_one_process_cuts_the_micro_batches_of_all(straight):
    run, done = train(straight.base, "memory", "memory:5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "computed in 2 pieces" in done.stderr
    pieces = [int(n) for n in re.findall(r"computed in (\d+) pieces", done.stderr)]
    assert pieces == sorted(pieces) and len(set(pieces)) == len(pieces)
    assert losses(run) == pytest.approx(losses(straight), rel=2e-4), "the same training, up to rounding"
    assert losses(run)[:4] == losses(straight)[:4]


def test_a_gradient_that_is_no_number_costs_one_step(straight):
    run, done = train(straight.base, "gradient", "gradient:5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "in process 1 is no number; this step is left out" in done.stderr
    assert losses(run)[:5] == losses(straight)[:5] and losses(run)[5:] != losses(straight)[5:]
    assert losses(run)[-1] < losses(run)[0] and len(losses(run)) == STEPS


def test_gradients_that_stay_no_numbers_end_it_at_the_last_checkpoint(straight):
    run, done = train(straight.base, "gradients", "gradients:8")
    refused(done, "5 steps in a row", "--dtype float32")
    assert [path.name for path in sorted((run.dir / "base").iterdir())] == ["step_6"]


def test_a_loss_that_is_no_number_in_one_process_ends_all(straight):
    run, done = train(straight.base, "loss", "loss:8")
    refused(done, "the loss of step 8 is nan")
    assert [path.name for path in sorted((run.dir / "base").iterdir())] == ["step_6"]
    # without the fault the same command goes on as if nothing had been
    shutil.copytree(run.dir, run.dir.parent / "mended")
    run, done = train(straight.base, "mended", "none:0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(run) == losses(straight)


def test_a_loss_that_jumps_in_one_process_and_stays_up_ends_it_before_the_jump(tmp_path):
    run, done = train(tmp_path, "high", "high:67", steps=75)
    refused(done, "From step 67 on", "goes on from step_66", "NANOCHAT_WATCH=off")
    saved = sorted(int(path.name[5:]) for path in (run.dir / "base").glob("step_*"))
    assert saved and saved[-1] == 66, "what was saved after the jump is gone"
    run, done = train(tmp_path, "high", "high:1", steps=75, NANOCHAT_WATCH="off")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(run)) == 75
