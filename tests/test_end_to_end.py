"""The whole road on the smoke tier: every stage, the fixed form of its results, and a second start that knows
it is finished"""

import json, math, random, shutil, time
from conftest import ROOT, TRAIN, door, lines_of, run_module
from nanochat.scaling import TIERS

METRICS = {"core", "mc_easy", "mc_hard", "word_problems", "code", "spelling", "identity", "talk", "mean"}


def test_every_step_ran_in_order(smoke):
    steps = [l[3:-3] for l in smoke.done.stderr.splitlines() if l.startswith("== ")]
    assert steps == [
        "settings",
        "tokenizer",
        "evaluate_tokenizer",
        "base",
        "evaluate_base",
        "tasks_base",
        "mid",
        "evaluate_mid",
        "tasks_mid",
        "sft",
        "tasks_sft",
        "rl",
        "tasks_rl",
        "report",
    ]
    for word in ("Python 3.", "free disk", "expected", "tokenizer trainer"):
        assert word in smoke.done.stderr, f"the start does not state: {word}"


def test_summary_has_the_fixed_form(smoke):
    s = json.loads((smoke.dir / "results" / "summary.json").read_text())
    assert {"scores", "bpb", "seconds", "peak_rss_mb", "params", "tokens", "seed"} <= set(s)
    assert set(s["scores"]) == set(TRAIN)
    for stage, scores in s["scores"].items():
        assert set(scores) <= METRICS and "mean" in scores, stage
        for metric, v in scores.items():
            assert set(v) == {"score", "n", "lo", "hi"}, (stage, metric)
            assert 0 <= v["lo"] <= v["score"] <= v["hi"] <= 1 and v["n"] > 0, (stage, metric, v)
    assert list(s["bpb"]) and set(s["bpb"]) == {"uniform", "unigram", "bigram", "trigram", "base", "mid"}
    assert s["bpb"]["uniform"] > s["bpb"]["unigram"] > s["bpb"]["bigram"], "counting more context must help"
    assert s["bpb"]["base"] < s["bpb"]["uniform"], "sixty steps must beat guessing"
    assert {"tokenizer", *TRAIN, "evaluate"} <= set(s["seconds"]) and all(
        v >= 0 for v in s["seconds"].values()
    )
    assert set(s["tokens"]) == set(TRAIN) and s["params"] > 0 and s["peak_rss_mb"] > 0 and s["seed"] == 0
    assert sum(s["seconds"].values()) < 300, s[
        "seconds"
    ]  # about 60 s on two quiet cores; far over that, something is wrong
    print(
        f"\nsmoke tier: stages {sum(s['seconds'].values()):.0f} s, everything {smoke.wall:.0f} s, "
        f"{s['seconds']}"
    )


def test_every_stage_keeps_what_it_took(smoke):
    for stage in TRAIN:
        r = json.loads((smoke.dir / "results" / f"{stage}.json").read_text())
        assert {
            "seconds",
            "steps",
            "tokens",
            "loss",
            "tokens_per_second",
            "flops_per_token",
            "mfu",
            "peak_flops",
            "peak_rss_mb",
            "dtype",
            "threads",
            "provenance",
        } <= set(r)
        assert r["steps"] == smoke.settings[stage]["steps"] and math.isfinite(r["loss"]) and r["tokens"] > 0
        assert r["tokens"] == sum(l["tokens"] for l in lines_of(smoke.dir, stage)), stage
        assert len(list((smoke.dir / stage).glob("step_*"))) == 2, "the last two checkpoints are kept"


def test_log_has_one_line_per_step(smoke):
    for stage in TRAIN:
        lines = lines_of(smoke.dir, stage)
        assert [l["step"] for l in lines] == list(range(1, smoke.settings[stage]["steps"] + 1))
        assert all({"stage", "step", "loss", "tokens", "seconds"} <= set(l) for l in lines)
        assert all(a["seconds"] <= b["seconds"] for a, b in zip(lines, lines[1:]))
    base = [l["loss"] for l in lines_of(smoke.dir, "base")]
    assert sum(base[-5:]) < 0.9 * sum(base[:5]), "the loss must fall"


def test_samples_are_kept_for_the_report(smoke):
    for stage in TRAIN:
        t = json.loads((smoke.dir / "results" / f"tasks_{stage}.json").read_text())
        assert t["stage"] == stage and len(t["samples"]) >= 6
        assert all({"task", "prompt", "answer", "right"} <= set(s) for s in t["samples"])


def test_report_states_every_score(smoke):
    text = (smoke.dir / "report.md").read_text()
    s = json.loads((smoke.dir / "results" / "summary.json").read_text())
    for word in ("BASE", "MID", "SFT", "RL", "bits per byte"):
        assert word.lower() in text.lower(), word
    assert f"{s['bpb']['base']:.3f}" in text or f"{s['bpb']['base']:.2f}" in text
    assert "programs judged in isolation: process, limits" in text, "which levels were on"
    assert list(smoke.dir.glob("**/*.png")), "no figure"
    for line in text.splitlines():  # every picture that the report shows is there
        if line.startswith("!["):
            assert (smoke.dir / line.split("](")[1].rstrip(")").strip()).exists(), line


def test_second_start_says_finished_without_torch(smoke, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    from conftest import ROOT

    t0 = time.time()
    again = door(
        "--tier", "smoke", "--seed", "0", base=smoke.base, PYTHONPATH=f"{tmp_path}:{ROOT}", timeout=60
    )
    assert again.returncode == 0 and "finished already" in again.stderr, again.stderr
    assert "torch" not in again.stderr and time.time() - t0 < 10
    assert not [l for l in again.stderr.splitlines() if l.startswith("== ")], "no step may run again"


def test_named_run_needs_no_other_option(smoke):
    again = door("--run", smoke.name, base=smoke.base, timeout=60)
    assert again.returncode == 0 and "finished already" in again.stderr, again.stderr


def test_small_folder_is_read_four_times(base, tmp_path):
    "The plan is shortened to what the text allows, and later stages take the shorter plan for the whole"
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = random.Random(0)
    (folder / "a.txt").write_text(
        "\n\n".join(
            " ".join("".join(rng.choices("aeioubcdrst", k=rng.randrange(2, 8))) for _ in range(60))
            for _ in range(300)
        )
    )
    options = (
        "--run",
        "small",
        "--tier",
        "laptop",
        "--corpus",
        folder,
        "--depth",
        1,
        "--seq_len",
        64,
        "--vocab_size",
        300,
    )
    said = run_module("scaling", *options, base=base).stdout
    run_module("pretrain", *options, base=base)
    b = json.loads((base / "runs" / "small" / "settings.json").read_text())["base"]
    text = (folder / "a.txt").stat().st_size
    planned = TIERS["laptop"].base.steps
    assert b["planned_steps"] == planned and f"{planned:,} steps were planned" in said
    assert (
        4 * 0.9 * text / 3 < b["steps"] * 4 * 64 < 4 * text
    )  # four times nine tenths of it, at 1 to 3 bytes a token
    assert "already there" in run_module("pretrain", *options, base=base).stderr
    assert json.loads((base / "runs" / "small" / "settings.json").read_text())["base"] == b
    run_module("evaluate", "--run", "small", "--stage", "base", base=base)  # the stage counts as finished
    assert (base / "runs" / "small" / "results" / "evaluate_base.json").exists()


def test_a_run_that_is_kept_small_can_be_talked_to(smoke, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import keep
    from safetensors.torch import load_file

    steps = keep.keep(smoke.dir, tmp_path / "runs" / "first")
    assert list(steps) == ["base", "mid", "sft", "rl"]
    for stage, step in steps.items():
        folder = tmp_path / "runs" / "first" / stage / f"step_{step}"
        assert {str(t.dtype) for t in load_file(folder / "model.safetensors").values()} == {"torch.bfloat16"}
        assert not (folder / "optim.safetensors").exists()
        said = run_module("chat", "--run", "first", "--stage", stage, "--prompt", "Hello.", base=tmp_path)
        assert said.returncode == 0 and "Traceback" not in said.stderr


def test_the_first_run_of_the_course_can_be_talked_to(tmp_path):
    "What chapter 00 talks to: four models, small enough for a repository"
    first = ROOT / "nbs" / "first_run"
    kept = json.loads((first / "kept.json").read_text())
    assert list(kept["steps"]) == list(TRAIN) and kept["run"] in kept["command"]
    assert sum(path.stat().st_size for path in first.rglob("*") if path.is_file()) < 12e6
    shutil.copytree(first / "runs", tmp_path / "runs")
    for stage, step in kept["steps"].items():
        assert (tmp_path / "runs" / "first" / stage / f"step_{step}" / "model.safetensors").exists()
    ask = ("chat", "--run", "first", "--prompt", "Who are you?", "--stage")
    said = {stage: run_module(*ask, stage, base=tmp_path).stdout for stage in ("base", "sft")}
    assert "nanochat" in said["sft"] and "nanochat" not in said["base"], said
