"Scores on real evaluation sets: every row of the three forms is understood, what is missing is named, and a model that knows nothing scores nothing"
import itertools, json
from dataclasses import replace
import numpy as np, pytest, torch
from conftest import Run, refused, run_module, torchrun
from nanochat.evaluate import core_score, evaluate_core, load_core, mean_interval, options, row_pairs, score, score_rows, wilson
from nanochat.gpt import GPT, GPTConfig
from nanochat.scaling import SMOKE
from nanochat.tokenizer import Tokenizer

HERE = {"arc_easy", "arc_challenge", "copa", "piqa", "openbook_qa", "winograd", "winogrande", "boolq", "bigbench_dyck_languages", "bigbench_operators", "bigbench_repeat_copy_logic"}

@pytest.fixture(scope="module")
def bundle(shared): return load_core(shared/"core")

@pytest.fixture(scope="module")
def tok(bundle):
    "A tokenizer of this text"
    texts = (" ".join(c+" "+k for c, k in options(r)) for t in bundle.values() if t["rows"] for r in t["rows"][:200])
    return Tokenizer.train(texts, 1500)

@pytest.fixture(scope="module")
def guesser(tok):
    "Opinions about everything, knowledge of nothing"
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tok.vocab_size, seq_len=1024, n_layer=1, n_embd=32, n_head=2, n_kv_head=2)).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model

def test_the_bundle_and_what_it_lacks(bundle):
    assert len(bundle) == 22
    assert {name for name, t in bundle.items() if t["rows"]} == HERE
    assert {name: len(t["rows"]) for name, t in bundle.items() if name in ("copa", "winograd", "boolq")} == dict(copa=100, winograd=273, boolq=3270)
    assert bundle["arc_easy"]["delimiter"] == "\nAnswer: " and bundle["arc_easy"]["shots"] == 10 and bundle["winograd"]["chance"] == 0.5
    assert {name for name in HERE if bundle[name]["odd"]} == {"boolq"}, "its chance level of 62% is the share of yes, all others are 1/choices"

def test_every_row_is_understood(bundle, tok):
    for name in HERE:
        for row in bundle[name]["rows"]:
            pairs = row_pairs(tok, row, bundle[name]["delimiter"])
            assert all(p[0] == tok.bos and len(c) > 0 for p, c in pairs), (name, row)
            assert len(pairs) == len(row.get("choices") or row.get("context_options") or [1])
            for (p, c), (context, continuation) in zip(pairs, options(row)):
                assert tok.decode(p[1:]+c) == context+bundle[name]["delimiter"]+continuation, (name, row)
            if "context_options" in row: assert len({tuple(c) for _, c in pairs}) == 1, "one ending for all beginnings"
            if "choices" in row: assert len({tuple(p) for p, _ in pairs}) == 1, "one beginning for all endings"

def test_a_guesser_scores_nothing(bundle, tok, guesser):
    few = {name: dict(t, shots=min(t["shots"], 1)) for name, t in bundle.items() if name not in ("boolq", "piqa")}     # their rows are long: two minutes more
    out = evaluate_core(guesser, tok, few, n=200)
    print(out)
    assert out["core"] is None and set(out["missing"]) == set(few)-HERE, "never a silent subset"
    for name, s in out["scores"].items():
        assert s["lo"]-0.03 <= few[name]["chance"] <= s["hi"]+0.03, (name, s)      # nine intervals: one may miss by a little
    assert out["lo"]-0.01 <= 0 <= out["hi"]+0.01

def test_a_full_set_has_a_core(bundle, tok, guesser):
    there = {name: bundle[name] for name in ("copa", "winograd")}
    rights = {name: score_rows(guesser, tok, t["rows"], n=50) for name, t in there.items()}
    out = core_score(rights, {name: t["chance"] for name, t in there.items()})
    assert out["missing"] == [] and out["core"] == pytest.approx(sum((score(r)["score"]-0.5)/0.5 for r in rights.values())/2)

# --- intervals of a mean ---

@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("sizes", [(100, 50), (24,)*7, (300,)*7, (1, 1), (5,)])
def test_a_mean_at_the_edge_is_not_certain(right, sizes):
    "Every task at 0 or at 1: the interval has a width, about that of one task with as many questions, and ends at the edge"
    m = mean_interval([score([right]*n) for n in sizes])
    edge, inner = (m["hi"], m["lo"]) if right else (m["lo"], m["hi"])
    lo, hi = wilson(sum(sizes)*right, sum(sizes))
    assert edge == right and 0.3*(hi-lo) < abs(inner-edge) < 3*(hi-lo)
    c = core_score({str(i): [right]*n for i, n in enumerate(sizes)}, {str(i): 0. for i in range(len(sizes))})
    assert c["hi"]-c["lo"] == pytest.approx(m["hi"]-m["lo"], rel=.2) and c["lo"] <= right <= c["hi"]

def test_a_mean_of_zeros_and_ones_is_not_certain():
    m = mean_interval([score([0]*100), score([1]*100)])
    assert m["lo"] < .5 < m["hi"] and m["hi"]-m["lo"] > .01

@pytest.mark.parametrize("tasks, n", [(2, 24), (6, 100), (7, 300), (22, 24), (22, 100)])
@pytest.mark.parametrize("p", [.01, .2, .99])
def test_intervals_of_a_mean_cover_what_they_promise(tasks, n, p):
    rng = np.random.default_rng(0)
    exams = rng.binomial(n, p, (300, tasks))
    def given(ks): return {str(i): [True]*k+[False]*(n-k) for i, k in enumerate(ks)}
    means = [mean_interval([dict(score=k/n, n=n) for k in ks], draws=400) for ks in exams.tolist()]
    assert np.mean([m["lo"]-1e-9 <= p <= m["hi"]+1e-9 for m in means]) > .91
    chance = {str(i): .25 for i in range(tasks)}
    cores = [core_score(given(ks), chance, draws=400) for ks in exams[:150].tolist()]
    assert np.mean([c["lo"]-1e-9 <= (p-.25)/.75 <= c["hi"]+1e-9 for c in cores]) > .9
    assert all(m["lo"] <= m["score"] <= m["hi"] and 0 <= m["lo"] and m["hi"] <= 1 for m in means)

# --- validation is bounded ---

def test_validation_of_an_endless_text_ends(monkeypatch):
    from itertools import repeat
    from nanochat import evaluate
    monkeypatch.setattr(evaluate.Corpus, "documents", lambda *args, **kwargs: repeat("The sea is calm today, and so is the captain.\n"))
    tok = Tokenizer.train(["The sea is calm today, and so is the captain."]*3, 270)
    for corpus in ("world", "tinystories", "/some/folder"):
        rows = evaluate.val_set(replace(SMOKE, corpus=corpus, seq_len=64, val_tokens=5000), tok)
        assert 4900 < evaluate.text_tokens(rows, tok.bos) <= 5000 and {r.dtype for r in rows} == {np.dtype(np.uint16)}
    class Large:
        vocab_size, bos, encode = 70_000, 69_999, staticmethod(lambda text: [69_000]*len(text))
    rows = evaluate.id_rows(["a"*50, "b"*100, "c"*900], Large, 64, 200)
    assert {r.dtype for r in rows} == {np.dtype(np.uint32)} and max(r.max() for r in rows) == 69_999 and evaluate.text_tokens(rows, Large.bos) == 150
    assert evaluate.text_tokens(evaluate.id_rows(["a"*5000], Large, 64, 200), Large.bos) == 200, "a first document that is too long is cut"

@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    "One step on a folder whose validation text is far longer than the plan's val_tokens"
    base, texts = tmp_path_factory.mktemp("bounded"), tmp_path_factory.mktemp("texts")
    (texts/"a.txt").write_text("".join(f"On day {i} the sea was calm and the captain counted {i*7} gulls.\n\n" for i in range(30_000)))
    run_module("pretrain", "--run", "folder", "--tier", "smoke", "--corpus", texts, "--num_iterations", 1, base=base)
    return Run(base, "folder")

@pytest.mark.slow
def test_a_folders_validation_is_bounded_and_shared_by_processes(folder_run):
    name, results = folder_run.name, folder_run.dir/"results"
    def evaluate(processes, stage):
        if processes == 1: run_module("evaluate", "--run", name, "--stage", stage, base=folder_run.base)
        else:
            done = torchrun(processes, "-m", "nanochat.evaluate", "--run", name, "--stage", stage, base=folder_run.base)
            assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads((results/f"evaluate_{stage}.json").read_text())
        (results/f"evaluate_{stage}.json").unlink()
        return result
    for stage in ("tokenizer", "base"):
        one, two = evaluate(1, stage), evaluate(2, stage)
        assert 0 < one["val_tokens"] <= folder_run.settings["val_tokens"] and one["val_tokens"] == two["val_tokens"]
        assert one["bpb"] == pytest.approx(two["bpb"], rel=1e-6)
    summary = json.loads((results/"summary.json").read_text())
    assert {"uniform", "unigram", "bigram", "trigram", "base"} == set(summary["bpb"])

@pytest.mark.slow
def test_evaluate_of_a_run_in_use_is_refused_by_all_processes(folder_run):
    from nanochat.runs import run_lock
    with run_lock(folder_run.dir):
        done = torchrun(2, "-m", "nanochat.evaluate", "--run", folder_run.name, "--stage", "base", base=folder_run.base)
    refused(done, "in use")
    assert not (folder_run.dir/"results"/"evaluate_base.json").exists()
