"Training: batches that are what the log says, numbers that are numbers, plans that can be kept"
import json, socket, subprocess, sys
import pytest, torch
from conftest import ROOT, environment, leftovers, lines_of
from nanochat.runtime import UserError
from nanochat.scaling import micro_batches, plan

def torchrun(processes, *args, base=None, timeout=300, **env):
    "`torchrun --nproc_per_node=PROCESSES -- ARGS` on the CPU"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}",
               "--no-python", sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=environment(base, OMP_NUM_THREADS=1, NANOCHAT_DEVICE="cpu", **env),
                          capture_output=True, text=True, timeout=timeout)

def refused(done, *words):
    "The command ended with a reader's line that holds `words` (processes may write theirs into one another's)"
    line = next((line for line in done.stderr.splitlines() if "error: " in line), "")
    assert done.returncode and all(str(word) in line for word in words), done.stderr[-3000:]

# --- batches never shrink ---

def test_micro_batches_make_up_the_step_exactly():
    for rows in range(1, 65):
        for device_rows in range(1, 17):
            for world in range(1, 9):
                if rows % world:
                    with pytest.raises(UserError) as e: micro_batches(rows, device_rows, world)
                    assert all(str(n) in str(e.value) for n in (rows, device_rows, world)) and "\n" not in str(e.value)
                    continue
                size, count = micro_batches(rows, device_rows, world)
                assert size*count*world == rows and 1 <= size <= device_rows
                assert not any(rows % (larger*world) == 0 for larger in range(size+1, device_rows+1)), "the largest"

TRAINED = """
import json, sys
from pathlib import Path
from nanochat import pretrain
from nanochat.runtime import rank
from nanochat.scaling import open_run
seen, step = [], pretrain.train_step
def counting(model, opt, parts):
    seen.append(sum(ids.numel() for ids, _, _ in parts))
    return step(model, opt, parts)
pretrain.train_step = counting
base, name, rows, at_once = sys.argv[1:]
pretrain.pretrain(open_run(name, tier="smoke", dtype="float32", num_iterations=2, save_every=1, total_batch_size=int(rows)*128,
                           device_batch_size=int(at_once)))
Path(base, f"{name}-{rank()}.json").write_text(json.dumps(seen))
"""

def trained(base, name, processes, rows, at_once):
    "Tokens that each process computed on in each of two steps"
    script = base/"trained.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(TRAINED)
    done = torchrun(processes, script, base, name, rows, at_once, base=base)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((base/f"{name}-{r}.json").read_text()) for r in range(processes)]

@pytest.mark.slow
def test_what_the_log_counts_was_trained(tmp_path):
    "24 rows, 8 at a time: by 1, 2 and 4 processes"
    losses = []
    for processes in (1, 2, 4):
        seen = trained(tmp_path, f"p{processes}", processes, 24, 8)
        log = lines_of(tmp_path/"runs"/f"p{processes}", "base")
        assert [sum(step) for step in zip(*seen)] == [l["tokens"] for l in log] == [24*128]*2
        result = json.loads((tmp_path/"runs"/f"p{processes}"/"results"/"base.json").read_text())
        assert result["tokens"] == 2*24*128
        losses.append([l["loss"] for l in log])
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in zip(losses, losses[1:])), "and it is the same batch"

def test_processes_that_cannot_share_a_step_are_refused_before_anything_is_written(tmp_path):
    for processes, args, numbers in ((8, ("--depth", 20), (4, 8)), (3, ("--tier", "smoke"), (8, 3))):
        done = torchrun(processes, "-m", "nanochat.pretrain", *args, base=tmp_path)
        refused(done, *numbers)
        assert not list(tmp_path.rglob("settings.json")) and not leftovers(tmp_path)
