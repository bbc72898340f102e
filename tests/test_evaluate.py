"""Scores on real evaluation sets

Every row of the three forms is understood, what is missing is named, and a model that knows nothing scores
nothing."""

import json
from dataclasses import replace
from itertools import repeat
import numpy as np
import pytest
import torch
from conftest import Run, refused, run_module, torchrun
from nanochat.evaluate import (
    core_score,
    evaluate_core,
    load_core,
    mean_interval,
    options,
    row_pairs,
    score,
    score_rows,
    wilson,
)
from nanochat.gpt import GPT, GPTConfig
from nanochat.scaling import SMOKE
from nanochat.tokenizer import Tokenizer

HERE = {
    "arc_easy",
    "arc_challenge",
    "copa",
    "piqa",
    "openbook_qa",
    "winograd",
    "winogrande",
    "boolq",
    "bigbench_dyck_languages",
    "bigbench_operators",
    "bigbench_repeat_copy_logic",
}


@pytest.fixture(scope="module")
def bundle(shared):
    return load_core(shared / "core")


@pytest.fixture(scope="module")
def tok(bundle):
    "A tokenizer of this text"
    rows = [row for task in bundle.values() for row in (task["rows"] or [])[:200]]
    texts = (" ".join(context + " " + ending for context, ending in options(row)) for row in rows)
    return Tokenizer.train(texts, 1500)


@pytest.fixture(scope="module")
def guesser(tok):
    "Opinions about everything, knowledge of nothing"
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=tok.vocab_size, seq_len=1024, n_layer=1, n_embd=32, n_head=2, n_kv_head=2)
    model = GPT(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model


def test_the_bundle_and_what_it_lacks(bundle):
    assert len(bundle) == 22
    assert {name for name, t in bundle.items() if t["rows"]} == HERE
    sizes = {name: len(bundle[name]["rows"]) for name in ("copa", "winograd", "boolq")}
    assert sizes == dict(copa=100, winograd=273, boolq=3270)
    assert bundle["arc_easy"]["delimiter"] == "\nAnswer: " and bundle["arc_easy"]["shots"] == 10
    assert bundle["winograd"]["chance"] == 0.5
    assert {name for name in HERE if bundle[name]["odd"]} == {"boolq"}, (
        "its chance level of 62% is the share of yes, all others are 1/choices"
    )


def test_every_row_is_understood(bundle, tok):
    for name in HERE:
        delimiter = bundle[name]["delimiter"]
        for row in bundle[name]["rows"]:
            pairs = row_pairs(tok, row, delimiter)
            assert all(p[0] == tok.bos and len(c) > 0 for p, c in pairs), (name, row)
            assert len(pairs) == len(row.get("choices") or row.get("context_options") or [1])
            for (p, c), (context, continuation) in zip(pairs, options(row)):
                assert tok.decode(p[1:] + c) == context + delimiter + continuation, (name, row)
            if "context_options" in row:
                assert len({tuple(c) for _, c in pairs}) == 1, "one ending for all beginnings"
            if "choices" in row:
                assert len({tuple(p) for p, _ in pairs}) == 1, "one beginning for all endings"


def test_a_guesser_scores_nothing(bundle, tok, guesser):
    short = [name for name in bundle if name not in ("boolq", "piqa")]  # long rows: two minutes more
    few = {name: dict(bundle[name], shots=min(bundle[name]["shots"], 1)) for name in short}
    out = evaluate_core(guesser, tok, few, n=200)
    print(out)
    assert out["core"] is None and set(out["missing"]) == set(few) - HERE, "never a silent subset"
    for name, s in out["scores"].items():
        # nine intervals: one may miss by a little
        assert s["lo"] - 0.03 <= few[name]["chance"] <= s["hi"] + 0.03, (name, s)
    assert out["lo"] - 0.01 <= 0 <= out["hi"] + 0.01


def test_a_full_set_has_a_core(bundle, tok, guesser):
    there = {name: bundle[name] for name in ("copa", "winograd")}
    rights = {name: score_rows(guesser, tok, t["rows"], n=50) for name, t in there.items()}
    out = core_score(rights, {name: t["chance"] for name, t in there.items()})
    centred = [(score(right)["score"] - 0.5) / 0.5 for right in rights.values()]
    assert out["missing"] == [] and out["core"] == pytest.approx(sum(centred) / 2)


# --- intervals of a mean ---


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("sizes", [(100, 50), (24,) * 7, (300,) * 7, (1, 1), (5,)])
def test_a_mean_at_the_edge_is_not_certain(right, sizes):
    "Every task at 0 or at 1: the interval ends at the edge, and is about as wide as that of one long task"
    m = mean_interval([score([right] * n) for n in sizes])
    edge, inner = (m["hi"], m["lo"]) if right else (m["lo"], m["hi"])
    lo, hi = wilson(sum(sizes) * right, sum(sizes))
    assert edge == right and 0.3 * (hi - lo) < abs(inner - edge) < 3 * (hi - lo)
    rights = {str(i): [right] * n for i, n in enumerate(sizes)}
    c = core_score(rights, dict.fromkeys(rights, 0.0))
    assert c["hi"] - c["lo"] == pytest.approx(m["hi"] - m["lo"], rel=0.2) and c["lo"] <= right <= c["hi"]


def test_a_mean_of_zeros_and_ones_is_not_certain():
    m = mean_interval([score([0] * 100), score([1] * 100)])
    assert m["lo"] < 0.5 < m["hi"] and m["hi"] - m["lo"] > 0.01


@pytest.mark.parametrize("tasks, n", [(2, 24), (6, 100), (7, 300), (22, 24), (22, 100)])
@pytest.mark.parametrize("p", [0.01, 0.2, 0.99])
def test_intervals_of_a_mean_cover_what_they_promise(tasks, n, p):
    rng = np.random.default_rng(0)
    exams = rng.binomial(n, p, (300, tasks))

    def given(ks):
        return {str(i): [True] * k + [False] * (n - k) for i, k in enumerate(ks)}

    means = [mean_interval([dict(score=k / n, n=n) for k in ks], draws=400) for ks in exams.tolist()]
    assert np.mean([m["lo"] - 1e-9 <= p <= m["hi"] + 1e-9 for m in means]) > 0.91
    chance = {str(i): 0.25 for i in range(tasks)}
    cores = [core_score(given(ks), chance, draws=400) for ks in exams[:150].tolist()]
    assert np.mean([c["lo"] - 1e-9 <= (p - 0.25) / 0.75 <= c["hi"] + 1e-9 for c in cores]) > 0.9
    assert all(m["lo"] <= m["score"] <= m["hi"] and 0 <= m["lo"] and m["hi"] <= 1 for m in means)


# --- validation is bounded ---


def test_validation_of_an_endless_text_ends(monkeypatch):
    from nanochat import evaluate

    line = "The sea is calm today, and so is the captain."
    monkeypatch.setattr(evaluate.Corpus, "documents", lambda *args, **kwargs: repeat(line + "\n"))
    tok = Tokenizer.train([line] * 3, 270)
    for corpus in ("world", "tinystories", "/some/folder"):
        rows = evaluate.val_set(replace(SMOKE, corpus=corpus, seq_len=64, val_tokens=5000), tok)
        assert 4900 < evaluate.text_tokens(rows, tok.bos) <= 5000
        assert {row.dtype for row in rows} == {np.dtype(np.uint16)}

    class Large:
        vocab_size, bos, encode = 70_000, 69_999, staticmethod(lambda text: [69_000] * len(text))

    rows = evaluate.id_rows(["a" * 50, "b" * 100, "c" * 900], Large, 64, 200)
    assert {row.dtype for row in rows} == {np.dtype(np.uint32)} and max(row.max() for row in rows) == 69_999
    assert evaluate.text_tokens(rows, Large.bos) == 150
    rows = evaluate.id_rows(["a" * 5000], Large, 64, 200)
    assert evaluate.text_tokens(rows, Large.bos) == 200, "a first document that is too long is cut"


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    "One step on a folder whose validation text is far longer than the plan's val_tokens"
    base, texts = tmp_path_factory.mktemp("bounded"), tmp_path_factory.mktemp("texts")
    days = (f"On day {i} the sea was calm and the captain counted {i * 7} gulls." for i in range(30_000))
    (texts / "a.txt").write_text("".join(day + "\n\n" for day in days))
    options = ["--run", "folder", "--tier", "smoke", "--corpus", texts, "--num_iterations", 1]
    run_module("pretrain", *options, base=base)
    return Run(base, "folder")


@pytest.mark.slow
def test_a_folders_validation_is_bounded_and_shared_by_processes(folder_run):
    name, results = folder_run.name, folder_run.dir / "results"

    def result_of(processes, stage):
        options = ["--run", name, "--stage", stage]
        if processes == 1:
            run_module("evaluate", *options, base=folder_run.base)
        else:
            done = torchrun(processes, "-m", "nanochat.evaluate", *options, base=folder_run.base)
            assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads((results / f"evaluate_{stage}.json").read_text())
        (results / f"evaluate_{stage}.json").unlink()
        return result

    for stage in ("tokenizer", "base"):
        one, two = result_of(1, stage), result_of(2, stage)
        assert 0 < one["val_tokens"] == two["val_tokens"] <= folder_run.settings["val_tokens"]
        assert one["bpb"] == pytest.approx(two["bpb"], rel=1e-6)
    summary = json.loads((results / "summary.json").read_text())
    assert {"uniform", "unigram", "bigram", "trigram", "base"} == set(summary["bpb"])


@pytest.mark.slow
def test_evaluate_of_a_run_in_use_is_refused_by_all_processes(folder_run):
    from nanochat.runs import run_lock

    with run_lock(folder_run.dir):
        options = ["--run", folder_run.name, "--stage", "base"]
        done = torchrun(2, "-m", "nanochat.evaluate", *options, base=folder_run.base)
    refused(done, "in use")
    assert not (folder_run.dir / "results" / "evaluate_base.json").exists()
