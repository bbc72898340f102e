"Scores on real evaluation sets: every row of the three forms is understood, what is missing is named, and a model that knows nothing scores nothing"
import itertools
import pytest, torch
from nanochat.evaluate import core_score, evaluate_core, load_core, options, row_pairs, score, score_rows
from nanochat.gpt import GPT, GPTConfig
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
