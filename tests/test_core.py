"""CORE as nanochat sits it

The same draws, the same prompts, the same verdicts, against a reference that goes one question at a time with
nothing but a softmax; bundles that are broken; processes that share an exam; controls; comparisons."""

import json, random, zipfile
import numpy as np
import pytest
import torch
from conftest import Run, run_module, refused, torchrun
from nanochat.evaluate import (
    Item,
    bpb_error,
    branch_nats,
    compare_items,
    core_folder,
    cropped_rows,
    evaluate_core,
    fitted_pairs,
    keep_items,
    like_lengths,
    load_core,
    model_bpb,
    paired,
    read_items,
    row_bits,
    sit_exam,
    swapped,
    unpack_bundle,
)
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.runs import UserError
from nanochat.scaling import CORE_TASKS, own_core, write_sets
from nanochat.tokenizer import Tokenizer
from nanochat.world import World


def small(tok, seq_len=256, **switches):
    torch.manual_seed(0)
    shape = dict(vocab_size=tok.vocab_size, seq_len=seq_len, n_layer=2, n_embd=64, n_head=2, n_kv_head=2)
    model = GPT(GPTConfig(**shape, **switches)).eval()
    for name, weight in model.named_parameters():
        if name.endswith(("lm_head.weight", "c_proj.weight", "smear_gate.weight")):
            torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train([text for text, _ in zip(World(0).documents(), range(400))], 600)


@pytest.fixture(scope="module")
def model(tok):
    return small(tok, **MODERN, window=64)


# --- a reference that others could have written: a question at a time, as nanochat's core_eval does ---


def reference(model, tok, rows, delimiter, shots, n):
    "Right or wrong of each question; and the text of its first prompt"
    data = list(rows)
    random.Random(1337).shuffle(data)
    data = data[:n]
    out = []
    for i, item in enumerate(data):
        examples = []
        if shots:
            others = [k for k in range(len(data)) if k != i]
            examples = [data[k] for k in random.Random(1234 + i).sample(others, shots)]
        told, texts = "", []
        if "choices" in item:
            told = "".join(f"{e['query']}{delimiter}{e['choices'][e['gold']]}\n\n" for e in examples)
            texts = [f"{told}{item['query']}{delimiter}{choice}" for choice in item["choices"]]
        elif "context_options" in item:
            for e in examples:
                told += f"{e['context_options'][e['gold']]}{delimiter}{e['continuation']}\n\n"
            texts = [
                f"{told}{context}{delimiter}{item['continuation']}" for context in item["context_options"]
            ]
        else:
            told = "".join(f"{e['context'].strip()}{delimiter}{e['continuation']}\n\n" for e in examples)
            without = f"{told}{item['context'].strip()}{delimiter}"
            texts = [without.strip(), without + item["continuation"]]
        ids = [[tok.bos, *tok.encode(text)] for text in texts]
        if "choices" in item:
            start = next(k for k in range(min(map(len, ids))) if len({row[k] for row in ids}) > 1)
            spans = [(row, start) for row in ids]
        elif "context_options" in item:
            end = next(k for k in range(1, min(map(len, ids)) + 1) if len({row[-k] for row in ids}) > 1) - 1
            spans = [(row, len(row) - end) for row in ids]
        else:
            assert ids[1][: len(ids[0])] == ids[0]
            spans = [(ids[1], len(ids[0]))]
        with torch.no_grad():
            logits = [model(torch.tensor([row]))[0] for row, _ in spans]
        if "gold" not in item:
            (row, start), said = spans[0], logits[0].argmax(-1).tolist()
            out.append((said[start - 1 : -1] == row[start:], texts[0]))
            continue
        costs = []
        for z, (row, start) in zip(logits, spans):
            targets = torch.tensor(row[start:])
            costs.append(torch.nn.functional.cross_entropy(z[start - 1 : -1], targets).item())
        out.append((costs.index(min(costs)) == item["gold"], texts[0]))
    return out


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("name", CORE_TASKS)
def test_every_verdict_is_that_of_one_question_at_a_time(model, tok, name, shots):
    rows = own_core(30)[f"eval_data/{name}.jsonl"]
    if name == "lambada":  # every other row goes on as the model itself would
        for row in rows[::2]:
            ids = [tok.bos, *tok.encode(row["context"] + "\nAnswer:")]
            said = model(torch.tensor([ids]))[0, -1].argmax().item()
            row["continuation"] = tok.decode([said]).strip() or "so"
    theirs = reference(model, tok, rows, "\nAnswer: ", shots, 20)
    ours = sit_exam(model, tok, rows, "\nAnswer: ", shots, 20)
    assert [item.right for item in ours] == [right for right, _ in theirs]
    assert name != "lambada" or shots or any(right for right, _ in theirs), "some must be right"
    assert not any(item.cut for item in ours) and [item.number for item in ours] == list(range(20))


def test_the_bundle_at_hand_is_sat_alike(shared):
    "Public rows of all three forms, with their shots and delimiters"
    tasks = load_core(shared / "core")
    rows = [row for task in tasks.values() for row in (task["rows"] or [])[:60]]
    texts = (row.get("query") or row.get("context") or row["context_options"][0] for row in rows)
    tok = Tokenizer.train(texts, 1200)
    model = small(tok, seq_len=2048, **MODERN, window=256)
    for name in ("copa", "arc_easy", "winograd", "bigbench_operators", "bigbench_dyck_languages", "piqa"):
        task = tasks[name]
        how = (model, tok, task["rows"], task["delimiter"], task["shots"], 12)
        assert [item.right for item in sit_exam(*how)] == [right for right, _ in reference(*how)], name


def test_branches_are_the_whole_pass(model, tok):
    "Random prompts and choices of all lengths, in one go and each by itself"
    rng = random.Random(0)

    def ids(n):
        return [rng.randrange(tok.vocab_size) for _ in range(n)]

    items = [
        (ids(rng.randint(2, 300)), [ids(rng.randint(1, 9)) for _ in range(rng.randint(1, 5))])
        for _ in range(24)
    ]
    for (prompt, choices), costs in zip(items, branch_nats(model, items)):
        for choice, cost in zip(choices, costs):
            with torch.no_grad():
                z = model(torch.tensor([prompt + choice]))[0, len(prompt) - 1 : -1]
            want = torch.nn.functional.cross_entropy(z, torch.tensor(choice)).item()
            assert cost == pytest.approx(want, abs=2e-4)


def test_groups_hold_every_item_once_and_fit():
    rng = random.Random(1)
    items = [([0] * rng.randint(2, 500), [[0] * rng.randint(1, 12)]) for _ in range(300)]
    groups = list(like_lengths(items, 512, tokens=4096))
    assert sorted(i for group in groups for i in group) == list(range(300))
    for group in groups:
        longest = max(len(items[i][0]) for i in group)
        assert len(group) * longest <= 4096 or len(group) == 1
        assert longest + max(len(items[i][1][0]) for i in group) <= 513
        assert min(len(items[i][0]) for i in group) >= 0.8 * longest


def test_what_is_too_long_loses_its_beginning_for_all_options_alike(tok):
    model = small(tok, seq_len=32)
    prompt = list(range(200))
    pairs, cut = fitted_pairs([(prompt, [1, 2, 3]), (prompt, [4])], 64)
    assert cut and [len(p) for p, _ in pairs] == [62, 62] and pairs[0][0] == prompt[-62:]
    assert fitted_pairs([([1, 2], [3])], 64) == ([([1, 2], [3])], False)
    rows = [dict(query="a word " * 60 + str(i), choices=["yes", "no"], gold=i % 2) for i in range(6)]
    assert all(item.cut for item in sit_exam(model, tok, rows)), "and it is said"


# --- controls ---


def test_a_control_swaps_what_must_be_read_and_nothing_else():
    rows = [dict(query=f"Passage: p{i}\nQuestion: q{i}", choices=["yes", "no"], gold=0) for i in range(6)]
    control = [swapped(rows, i) for i in range(6)]
    assert all(c["query"].endswith(f"q{i}") and f"p{i}\n" not in c["query"] for i, c in enumerate(control))
    for name, rows in zip(CORE_TASKS, own_core(8).values()):
        for i, row in enumerate(rows):
            other = swapped(rows, i)
            differ = {key for key in row if row[key] != other[key]}
            part = "continuation" if "context_options" in row else "query" if "choices" in row else "context"
            assert differ <= {part}, name
    assert swapped(rows[:1], 0) == rows[0], "a single question has nobody to swap with"
    listed = [dict(query=f"What is {i}?\nA. x{i}\nB. y{i}", choices=["A", "B"], gold=0) for i in range(4)]
    assert swapped(listed, 0)["query"] == "What is 2?\nA. x0\nB. y0", "what can be chosen stays"


def test_the_form_of_a_row_is_told_by_its_fields(model, tok):
    "A row of language modelling that happens to carry `gold` is not a choice of one"
    rows = [dict(row, gold=0) for row in own_core(12)["eval_data/lambada.jsonl"]]
    plain = own_core(12)["eval_data/lambada.jsonl"]
    assert [i.right for i in sit_exam(model, tok, rows)] == [i.right for i in sit_exam(model, tok, plain)]


def test_a_model_that_does_not_read_is_caught(tok):
    "Right answers that are likely by themselves: the score is high, and so is its control"
    torch.manual_seed(0)
    model = small(tok)
    yes, no = tok.encode(" yes")[-1], tok.encode(" no")[-1]
    rows = [dict(query=f"Is {i} a number?", choices=["yes", "no"], gold=0) for i in range(40)]
    nats = branch_nats(model, [([tok.bos, tok.bos], [[yes], [no]])])[0]
    if nats[0] > nats[1]:
        rows = [dict(row, gold=1) for row in rows]
    with torch.no_grad():  # the habit: one of the two is always likelier
        model.lm_head.weight[yes if nats[0] < nats[1] else no] *= 3
    tasks = dict(habit=dict(rows=rows, delimiter=" ", shots=0, chance=0.5, odd=None))
    found = evaluate_core(model, tok, tasks)
    score, control = found["scores"]["habit"], found["controls"]["habit"]
    assert score["lo"] > 0.5 and control["lo"] > 0.5, "it never looked, and the control says so"


def test_a_model_that_reads_falls(tok):
    "A question whose right answer is what this very model likes best after it: swapped, it is lost"
    model, rows = small(tok), []
    for i in range(60):
        query = f"Number {i * 37 % 101} of {i}"
        ids = torch.tensor([[tok.bos, *tok.encode(query)]])
        likely = [tok.decode([k]).strip() for k in model(ids)[0, -1].topk(60).indices.tolist()]
        words = [word for word in dict.fromkeys(likely) if word.isalpha()]
        if len(words) > 3:
            rows.append(dict(query=query, choices=[words[0], words[-1]], gold=0))
    asked = [item.right for item in sit_exam(model, tok, rows)]
    control = [item.right for item in sit_exam(model, tok, rows, twist=swapped)]
    assert len(rows) > 20 and sum(asked) > sum(control)


# --- files ---


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    write_sets()
    return tmp_path / "rehearsal_sets" / "core"


BROKEN = {
    "core.yaml": ("icl_tasks: [", "icl_tasks:\n- {label: pets}\n", "- 1\n", "icl_tasks: 7\n", ""),
    "eval_meta_data.csv": (
        "Eval Task\npets\n",
        "Eval Task,Random baseline\npets,many\nwsc,50\nlambada,0\n",
        "",
    ),
    "eval_data/pets.jsonl": (
        '{"query": "Who?"',
        "[1, 2]\n",
        '{"query": "Who?", "choices": "abc", "gold": 9}\n',
        '{"query": "Who?", "choices": [1, 2], "gold": 0}\n',
        '{"query": "Who?", "choices": ["a", "b"], "gold": true}\n',
        '{"query": "Who?", "choices": ["a", "b"], "gold": -1}\n',
        '{"something": "else"}\n',
        '{"query": null, "choices": ["a", "b"], "gold": 0}\n',
        '{"query": "Who?", "choices": null, "gold": 0}\n',
        '{"query": "Who?", "choices": ["a"], "gold": 0}\n',
        '{"choices": ["a", "b"], "gold": 0}\n',
        '{"query": "Who?", "choices": ["a", "b"]}\n',
        '{"context": null, "continuation": "a"}\n',
        '{"query": "Who?", "choices": ["a", "b"], "gold": 0}\n{"context": "a", "continuation": "b"}\n',
        "\x00\n",
    ),
}


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in BROKEN.items() for text in texts])
def test_a_broken_bundle_is_named_in_one_line(bundle, name, text):
    (bundle / name).write_text(text)
    with pytest.raises(UserError) as said:
        load_core(bundle)
    assert "\n" not in str(said.value) and ("core" in str(said.value))


def test_compressed_files_are_read(bundle):
    import gzip, lzma

    whole = load_core(bundle)
    for name, pack in (("pets", gzip.compress), ("wsc", lzma.compress)):
        plain = bundle / "eval_data" / f"{name}.jsonl"
        packed = plain.with_name(plain.name + (".gz" if name == "pets" else ".xz"))
        packed.write_bytes(pack(plain.read_bytes()))
        plain.unlink()
    assert load_core(bundle) == whole and not any(task["rows"] is None for task in whole.values())


def test_a_zip_leaves_its_folder_alone_or_makes_it_whole(bundle, tmp_path):
    packed, folder = tmp_path / "b.zip", tmp_path / "there"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("../outside.txt", "x")
        for path in bundle.rglob("*.*"):
            file.write(path, f"eval_bundle/{path.relative_to(bundle)}")
    unpack_bundle(packed, folder)
    assert load_core(folder) == load_core(bundle) and not (tmp_path.parent / "outside.txt").exists()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("readme", "x")
    with pytest.raises(UserError, match="no core.yaml"):
        unpack_bundle(packed, tmp_path / "other")
    whole = bytearray(packed.read_bytes())
    whole[45:60] = bytes(15)  # inside the compressed data, or the names
    packed.write_bytes(whole)
    with pytest.raises(UserError):
        unpack_bundle(packed, tmp_path / "other")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*.part"))


def test_the_hub_bundle_is_fetched_once(bundle, tmp_path, monkeypatch):
    import http.server, threading

    packed = tmp_path / "served" / "eval_bundle.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as file:
        for path in bundle.rglob("*.*"):
            file.write(path, f"eval_bundle/{path.relative_to(bundle)}")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        asked = []

        def __init__(self, *args):
            super().__init__(*args, directory=str(packed.parent))

        def do_GET(self):
            self.asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            "Nothing"

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NANOCHAT_BUNDLE", f"http://127.0.0.1:{server.server_port}/eval_bundle.zip")
    try:
        first, again = core_folder("hub"), core_folder("hub")
    finally:
        server.shutdown()
        server.server_close()
    assert load_core(first) == load_core(bundle) and again == first and len(Quiet.asked) == 1


# --- bits per byte ---


def test_rows_of_one_book_resemble_each_other():
    "Twenty books of fifty rows: the error is that of twenty draws, not of a thousand"
    errors, means = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        levels = np.repeat(1 + 0.15 * rng.standard_normal(20), 50)
        bits = np.stack((1000 * (levels + 0.05 * rng.standard_normal(1000)), np.full(1000, 1000.0)), 1)
        ratio, error = bpb_error(bits)
        means.append(ratio)
        errors.append(error)
    assert 0.6 < np.mean(errors) / np.std(means) < 1.4


def test_bits_of_rows_and_their_error(model, tok):
    text = [doc for doc, _ in zip(World(0).documents("val"), range(60))]
    rows = cropped_rows(text, tok, 64, 4000, waiting=20)
    bits = row_bits(model, rows, tok, 64)
    ratio, error = bpb_error(bits)
    assert ratio == pytest.approx(model_bpb(model, rows, tok, 64), rel=1e-5)
    rng = np.random.default_rng(0)
    draws = [bpb_error(bits[rng.integers(0, len(bits), len(bits))])[0] for _ in range(300)]
    assert error == pytest.approx(np.std(draws), rel=0.4)
    assert bpb_error(bits[:1])[1] is None and len({len(row) for row in rows}) == 1


def test_a_packed_row_is_what_nanochat_would_pack(tok):
    "On paper: the longest that fits first; where none fits the shortest is cut, and its remainder is lost"

    class Letters:
        vocab_size, bos = 300, 299
        encode = staticmethod(lambda text: [ord(c) for c in text])

    def packed(*docs):
        rows = cropped_rows(docs, Letters, 7, 100, waiting=5)
        return ["".join("_" if i == 299 else chr(i) for i in row) for row in rows]

    assert packed("aaaa", "bb", "ccccccc", "d", "eeeee") == ["_ccccccc", "_eeeee_d", "_aaaa_bb"]
    assert packed("aaaaa", "bbbb", "cccc") == ["_aaaaa_c"], "b is left alone, and its row is not full"
    assert packed("abcdefghijkl") == ["_abcdefg"], "the beginning of a long document, and no more"


# --- question by question ---


def test_paired_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    for _ in range(30):
        n = rng.randint(1, 400)
        before = [rng.random() < 0.5 for _ in range(n)]
        after = [not b if rng.random() < 0.2 else b for b in before]
        found = paired(before, after)
        differ = found["gained"] + found["lost"]
        want = stats.binomtest(found["gained"], differ, 0.5).pvalue if differ else 1.0
        assert found["p"] == pytest.approx(want, abs=1e-9)
        assert found["lo"] <= found["difference"] <= found["hi"]
    big = paired([0] * 5000, [1] * 5000)
    assert big["p"] < 1e-300 or big["p"] == 0.0
    with pytest.raises(ValueError):
        paired([1], [1, 0])


def test_items_are_kept_whole_and_hostile_text_with_them(tmp_path):
    items = {
        "a": [Item(0, "half \ud83d\n\u2028 <b>", "\x00", "é", True), Item(1, "x" * 9000, "", "", False, True)]
    }
    keep_items(tmp_path, "sft", items)
    kept = read_items(tmp_path, "sft")["a"]
    assert [item.right for item in kept] == [True, False] and len(kept[1].asked) == 2000
    assert compare_items(dict(a=kept), dict(a=kept))["a"]["n"] == 2
    file = tmp_path / "results" / "items_sft.jsonl"
    file.write_text(file.read_text() + '{"task": "a"}\n')
    with pytest.raises(UserError, match="score"):
        read_items(tmp_path, "sft")


@pytest.mark.long
def test_the_whole_bundle_at_hand(shared):
    "Every row of every task that is there, with its shots: a model that knows nothing guesses, and no more"
    tasks = load_core(shared / "core")
    rows = [row for task in tasks.values() for row in (task["rows"] or [])[:60]]
    texts = (row.get("query") or row.get("context") or row["context_options"][0] for row in rows)
    tok = Tokenizer.train(texts, 1200)
    found = evaluate_core(small(tok, seq_len=1024), tok, tasks)
    assert found["core"] is None and len(found["missing"]) == 11
    for name, mark in found["scores"].items():
        assert mark["n"] == len(tasks[name]["rows"])
        assert mark["lo"] - 0.03 <= tasks[name]["chance"] <= mark["hi"] + 0.03, (name, mark)
    assert found["lo"] - 0.01 <= 0 <= found["hi"] + 0.01


# --- a whole run ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("core")
    run_module("pretrain", "--run", "one", "--tier", "smoke", "--num_iterations", 2, base=base)
    return Run(base, "one")


@pytest.mark.slow
def test_two_processes_sit_the_same_exam(run, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    write_sets()
    options = ["--run", "one", "--core", tmp_path / "rehearsal_sets" / "core", "--core_n", 15]
    results = run.dir / "results"
    found = {}
    for processes in (1, 2):
        if processes == 1:
            run_module("evaluate", *options, base=run.base)
        else:
            done = torchrun(2, "-m", "nanochat.evaluate", *map(str, options), base=run.base)
            assert done.returncode == 0, done.stderr[-2000:]
        kept = json.loads((results / "core_base.json").read_text())
        found[processes] = kept["scores"], kept["controls"], (results / "items_core_base.jsonl").read_text()
    assert found[1] == found[2] and len(found[1][2].splitlines()) == 45


@pytest.mark.slow
def test_the_door_refuses_what_it_cannot_do(run, tmp_path):
    for options, why in (
        (["--core", tmp_path], "no core.yaml"),
        (["--core", tmp_path, "--core_n", "0"], "core_n 0"),
        (["--core", tmp_path, "--stage", "tokenizer"], "stage 'tokenizer'"),
    ):
        refused(run_module("evaluate", "--run", "one", *options, base=run.base, check=False), why)
