"""Public sets as tasks: every row of the files at hand, the hub's forms, and what becomes of bad rows

GSM8K's calls and answers, HumanEval's programs, letters of ARC and MMLU, conversations; a run that learns
from such files and is asked from them."""

import gzip, json, random
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
import pytest
import torch
from conftest import Run, door, refused
from nanochat.chat import render, signed
from nanochat.pretrain import Training
from nanochat.runs import UserError, read_plan
from nanochat.scaling import PUBLIC_MID, PUBLIC_SFT, RECIPES, make_plan, open_run, own_sets, write_sets
from nanochat.sft import mixture, same_sets
from nanochat.tasks import (
    CHAT_CORE,
    GSM8K,
    HumanEval,
    Letters,
    PUBLIC,
    PUBLIC_KINDS,
    SmolTalk,
    TokenSpelling,
    chat_core,
    exam_names,
    hash_number,
    is_conversation,
    public_rows,
    run_tasks,
    set_files,
    solution_parts,
    whole_words,
)
from nanochat.tokenizer import Tokenizer
from nanochat.tools import calculate


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train(["the answer is a letter, or a number, or a function " * 3], 300)


@pytest.fixture
def own(tmp_path, monkeypatch):
    "World's questions in the files of public sets"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    write_sets()
    return str(tmp_path / "rehearsal_sets")


# --- what lies in a folder ---


def test_every_row_at_hand_is_understood(shared):
    counts = {}
    for name, kind in PUBLIC_KINDS.items():
        task = kind(name, str(shared))
        for split in ("train", "test"):
            rows = task.rows(split)
            items = [task.item_at(split, i) for i in range(len(rows))]
            counts[name, split] = len(items), task.sources[split]
            assert all(it["question"] for it in items if name != "smoltalk" and it)
    assert counts["arc_easy", "test"] == (2376, "arc/arc_easy_test.jsonl.gz")
    assert counts["arc_challenge", "train"][0] == 1119 and counts["arc_challenge", "test"][0] == 1172
    assert counts["mmlu", "train"] == (285, "mmlu/dev.jsonl.gz"), "the examples, where there is no larger set"
    assert counts["mmlu", "test"] == (1531, "mmlu/val.jsonl.gz"), "and the result names the file"
    assert counts["gsm8k", "train"][0] == 7473 and counts["gsm8k", "test"][0] == 1319
    assert counts["humaneval", "test"][0] == 164 and counts["humaneval", "train"] == (0, "")
    assert counts["smoltalk", "train"][0] == 12174 + 3710 + 547 + 158
    assert "schema_guided_dev" not in counts["smoltalk", "train"][1], (
        "what is kept for testing is not learned"
    )


def test_gsm8k_whole(shared):
    "All calls are answered, with the values of the authors; all reference answers are right, commas and all"
    calls = differ = commas = 0
    task = GSM8K("gsm8k", str(shared))
    for split in ("train", "test"):
        for row in task.rows(split):
            it = task.item(row)
            assert task.right(it, it["solution"]), row
            final = row["answer"].rpartition("####")[2].strip()
            commas += "," in final
            assert hash_number(row["answer"]) == Decimal(final.replace(",", ""))
            parts = solution_parts(row["answer"])
            said = iter(parts)
            for part in said:
                if part["type"] == "python":
                    calls += 1
                    output = next(said)
                    assert output["type"] == "output" and output["text"] == calculate(part["text"])
            written = [
                inner.rpartition("=")[2] for inner in __import__("re").findall(r"<<([^<>]*)>>", row["answer"])
            ]
            replies = [part["text"] for part in parts if part["type"] == "output"]
            differ += sum(a != b for a, b in zip(written, replies))
    assert calls == 27_998 and commas == 93
    assert differ == 823, "822 are spelled otherwise, and one is a fraction"


def test_a_solution_is_learned_as_calls_are_made(shared, tok):
    task = GSM8K("gsm8k", str(shared))
    talk = task.train(random.Random(0))
    ids, mask = render(tok, talk)
    own = tok.decode([i for i, m in zip(ids, mask) if m and i < len(tok.ranks)])
    outputs = [part["text"] for part in talk[1]["content"] if part["type"] == "output"]
    assert outputs and "####" in own and len(signed(tok, talk)) == len(ids)


HOSTILE_ANSWERS = (
    "#### 1450 #### 7",
    "#### 7 #### 1450",
    "#### 1450\n#### 1451",
    "1450",
    "#### 14 50",
    "#### 1,45",
    "#### 1450e3",
    "#### 1450/2",
    "#### -1450",
    "#### one",
    "####",
    "#### 1450 or 7",
    "#### ١٤٥٠",
    "#### " + "1" * 200_000,
    "#### 1450" + "0" * 60,
    "#### 1450 " + " " * 90_000 + "x",
    "",
)


@pytest.mark.parametrize("text", HOSTILE_ANSWERS)
def test_an_answer_that_is_none_earns_nothing(text):
    task = GSM8K("gsm8k", "/nowhere")
    it = dict(question="?", number=Decimal(1450))
    assert not task.right(it, text)


@pytest.mark.parametrize(
    "text", ("#### 1450", "so\n#### 1,450", "#### $1450", "#### 1450.00", "#### 1450.", "####1450 ")
)
def test_an_answer_counts_however_it_is_spelled(text):
    assert GSM8K("gsm8k", "/nowhere").right(dict(question="?", number=Decimal(1450)), text)


@pytest.mark.long
def test_humaneval_whole(shared):
    "Reference solutions 100%, bare prompts 0%, in the isolation of chapter 17 (forty of them: test_judge)"
    from concurrent.futures import ThreadPoolExecutor

    task = HumanEval("humaneval", str(shared))
    items = task.test(1000)
    assert len({it["task_id"] for it in items}) == 164

    def judged(it):
        return task.right(it, it["prompt"] + it["answer"]), task.right(it, it["prompt"])

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(judged, items))
    assert [it["task_id"] for it, (whole, bare) in zip(items, found) if not whole or bare] == []


def test_a_program_is_found_as_nanochat_finds_it():
    "Behind the imports of its prompt, in the first fence wherever it stands"
    task = HumanEval("humaneval")
    prompt = 'from typing import List\n\ndef first(xs: List[int]) -> int:\n    """The first"""\n'
    test = "def check(candidate):\n    assert candidate([3, 4]) == 3\n"
    it = task.item(
        dict(
            task_id="x",
            prompt=prompt,
            entry_point="first",
            test=test,
            canonical_solution="    return xs[0]\n",
        )
    )
    bare = "def first(xs: List[int]) -> int:\n    return xs[0]\n"
    for text in (
        bare,
        prompt + "    return xs[0]\n",
        f"Here it is:\n```python\n{bare}```\nDone.",
        f"```\n{bare}```",
    ):
        assert task.right(it, text), text
    for text in ("", "first", f"```python\n{bare.replace('0', '1')}```", "```python\npass\n```\n" + bare):
        assert not task.right(it, text), text


# --- the hub's forms ---


def test_rows_as_the_hub_has_them():
    letters = Letters("arc_easy")
    by_label = dict(
        id="1", question="Which?", choices=dict(text=["a", "b", "c"], label=["A", "B", "C"]), answerKey="C"
    )
    by_digit = dict(
        by_label, choices=dict(text=["a", "b", "c", "d"], label=["1", "2", "3", "4"]), answerKey="2"
    )
    of_mmlu = dict(question="Which?", subject="x", choices=["a", "b", "c", "d"], answer=3)
    golds = [letters.item(row)["gold"] for row in (by_label, by_digit, of_mmlu, dict(train=of_mmlu))]
    assert golds == [2, 1, 3, 3]
    for row in (
        dict(by_label, answerKey="D"),
        dict(by_label, choices=["only one"], answer=0),
        dict(of_mmlu, answer=4),
        dict(of_mmlu, answer=None),
        dict(of_mmlu, choices=list("abcdefghi"), answer=0),
        dict(choices=["a", "b"], answer=0),
        dict(of_mmlu, question=None),
        dict(of_mmlu, choices=["a", None]),
        dict(of_mmlu, choices=["a", ["b"]]),
        dict(of_mmlu, answer=1.9),
        {},
    ):
        with pytest.raises((KeyError, ValueError, TypeError)):
            letters.item(row)


def test_tables_of_a_dataset_on_disk_are_read(own):
    tasks = run_tasks(replace(make_plan("smoke"), task_dir=own))
    for name in ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"):
        items = tasks[name].test(20)
        assert len(items) == 20 and all(it["question"] for it in items), name
    for name in ("arc_easy", "mmlu", "gsm8k", "smoltalk"):
        talk = tasks[name].train(random.Random(0))
        assert [m["role"] for m in talk][-1] == "assistant", name
    for it in tasks["humaneval"].test(4):
        assert tasks["humaneval"].right(it, it["prompt"] + it["answer"])
        assert not tasks["humaneval"].right(it, it["prompt"])
    for it in tasks["gsm8k"].test(20):
        assert tasks["gsm8k"].right(it, it["solution"])


def test_a_set_comes_from_the_hub(monkeypatch):
    import datasets

    asked = []

    def load_dataset(repo, config, split):
        asked.append((repo, config, split))
        return datasets.Dataset.from_list(own_sets(6)["arc_easy/train.parquet"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(Letters("arc_easy", "hub").test(100)) == 6
    assert asked == [("allenai/ai2_arc", "ARC-Easy", "test")]

    def broken(*args, **more):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(UserError, match="allenai/ai2_arc can't be loaded from the hub .no route.*--task_dir"):
        Letters("arc_easy", "hub").test(1)


def test_which_files_count(tmp_path):
    names = ["test.jsonl", "test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]
    names = [f"a/{name}" for name in [*names, "test_old.jsonl", "test.txt", "tests.jsonl"]]
    for name in [*names, "chat/x.jsonl.xz", "chat/x_dev.jsonl", "chat/notes.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert [p.name for p in set_files(tmp_path, "a/test")] == ["test.jsonl"], "one form, not both"
    (tmp_path / "a" / "test.jsonl").unlink()
    assert [p.name for p in set_files(tmp_path, "a/test")] == names_of_parts(2)
    (tmp_path / "a" / "test-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="1 parts of 2"):
        set_files(tmp_path, "a/test")
    for name in ("test.jsonl", "test.jsonl.gz"):
        (tmp_path / "a" / name).write_text("{}\n")
    with pytest.raises(UserError, match="which of them"):
        set_files(tmp_path, "a/test")
    for name in ("devices", "latest_chats", "intervals", "contest"):
        (tmp_path / "chat" / f"{name}.jsonl").write_text("{}\n")
    found = {p.name for p in set_files(tmp_path, "chat/*")}
    assert found == {"x.jsonl.xz", "devices.jsonl", "latest_chats.jsonl", "intervals.jsonl", "contest.jsonl"}


def names_of_parts(n):
    return [f"test-{k:05}-of-{n:05}.parquet" for k in range(n)]


# --- bad rows ---


def bad(tmp_path, name, text, packed=False):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode())[:-6] if packed else text.encode())
    return str(tmp_path)


@pytest.mark.parametrize(
    "kind, name, file, text",
    [
        (
            Letters,
            "arc_easy",
            "arc_easy/test.jsonl",
            '{"question": "?", "choices": ["a", "b"], "answer": "two"}\n',
        ),
        (Letters, "mmlu", "mmlu/test.jsonl", '{"question": "?", "choices": 7, "answer": 0}\n'),
        (GSM8K, "gsm8k", "gsm8k/test.jsonl", '{"question": "?", "answer": "no marks"}\n'),
        (GSM8K, "gsm8k", "gsm8k/test.jsonl", '{"question": "?", "answer": null}\n'),
        (HumanEval, "humaneval", "humaneval/test.jsonl", '{"prompt": "def f(): pass"}\n'),
        (
            HumanEval,
            "humaneval",
            "humaneval/test.jsonl",
            '{"prompt": "", "entry_point": "f", "task_id": "0", "canonical_solution": "", "test": "def ("}\n',
        ),
    ],
)
def test_a_row_that_means_nothing_is_named(tmp_path, kind, name, file, text):
    task = kind(name, bad(tmp_path, file, text))
    with pytest.raises(UserError, match=f"{name}, row 1 of {file}: it can't be understood"):
        task.test(5)


def test_a_file_that_is_cut_short_is_named(tmp_path):
    where = bad(tmp_path, "gsm8k/test.jsonl.gz", '{"question": "?"}\n' * 50, packed=True)
    with pytest.raises(UserError, match="test.jsonl.gz"):
        GSM8K("gsm8k", where).test(5)
    (tmp_path / "gsm8k" / "test.jsonl.gz").unlink()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('["a list"]\n')
    with pytest.raises(UserError, match="row 1: not a JSON object"):
        GSM8K("gsm8k", where).test(5)


def test_conversations_that_are_none_are_passed_over(tmp_path):
    good = dict(messages=[dict(role="user", content="Hi"), dict(role="assistant", content="Hello")])
    broken = [
        dict(messages=good["messages"] * 2 + good["messages"][:1]),
        dict(messages=[]),
        dict(messages="text"),
        dict(messages=[dict(role="user", content=None), dict(role="assistant", content="x")]),
        dict(messages=[dict(role="tool", content="x"), dict(role="assistant", content="x")]),
    ]
    rows = "".join(json.dumps(row) + "\n" for row in [*broken, good])
    chats = SmolTalk("smoltalk", bad(tmp_path, "chat/a.jsonl", rows))
    assert all(chats.train(random.Random(i)) == good["messages"] for i in range(20))
    assert not any(is_conversation(row["messages"]) for row in broken)
    chats = SmolTalk("smoltalk", bad(tmp_path, "chat/a.jsonl", json.dumps(broken[1]) + "\n"))
    with pytest.raises(UserError, match="hardly any row"):
        chats.train(random.Random(0))


# --- mixtures and exams ---


def test_mixtures_are_those_of_the_2025_run(own):
    plan = make_plan("full", seed=1, recipe="2025")
    assert (plan.task_dir, plan.core, plan.rl.task) == ("hub", "hub", "gsm8k")
    assert plan.mid.mix == PUBLIC_MID and plan.sft.mix == PUBLIC_SFT and "2025" in RECIPES
    assert make_plan("full", task_dir="world").rl.task == "word_problems"
    here = make_plan("smoke", task_dir=own)
    stream = mixture(None, here, "sft")
    kinds = [type(task).__name__ for task, _ in stream.parts]
    assert kinds == ["SmolTalk", "GSM8K", "Letters", "Letters", "Identity", "Spelling"]
    first = [item for item, _ in zip(stream(100), range(50))]
    assert first == [item for item, _ in zip(mixture(None, here, "sft")(100), range(50))], (
        "an item is its number"
    )


def test_a_folder_without_some_sets_is_shared_by_the_others(own, tmp_path, capsys):
    import shutil

    shutil.rmtree(f"{own}/smoltalk")
    plan = make_plan("smoke", task_dir=own)
    names = [task.name for task, _ in mixture(None, plan, "mid").parts]
    assert "smoltalk" not in names and "smoltalk not found" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    plan = replace(
        plan, task_dir=str(tmp_path / "empty"), sft=replace(plan.sft, mix=dict(gsm8k=1, arc_easy=1))
    )
    with pytest.raises(UserError, match="nothing to learn from"):
        mixture(None, plan, "sft")


def test_chatcore_is_the_mean_that_the_2025_report_took():
    mid = dict(arc_challenge=0.2875, arc_easy=0.3561, gsm8k=0.0250, humaneval=0.0671, mmlu=0.3111)
    sft = dict(arc_challenge=0.2807, arc_easy=0.3876, gsm8k=0.0455, humaneval=0.0854, mmlu=0.3151)
    for marks, want in ((mid, 0.0730), (sft, 0.0884)):
        scores = {name: dict(score=mark, n=10_000) for name, mark in marks.items()}
        assert round(chat_core(scores)["score"], 4) == want
        assert chat_core(scores)["lo"] < want < chat_core(scores)["hi"]
    assert chat_core({name: mid[name] for name in ()}) is None
    del scores["mmlu"]
    assert chat_core(scores) is None, "never a mean of some"
    assert set(CHAT_CORE) == {"arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"}


def test_what_each_stage_is_asked(own):
    plan = make_plan("smoke", task_dir=own, core=own + "/core")
    assert exam_names(plan, "base") == ("arc_easy", "arc_challenge", "mmlu", "dclm_core")
    assert exam_names(plan, "sft")[:5] == ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval")
    assert exam_names(make_plan("smoke"), "base")[0] == "core"
    with pytest.raises(UserError, match="leave --task_dir"):
        make_plan("smoke", task_dir=own, model="baseline")
    assert make_plan("full", core="none", task_dir="world").core == "" != make_plan("full").core
    for given, why in ((dict(task_dir="typo"), "no such folder"), (dict(core=own), "no core.yaml"),
                       (dict(task_dir=own + "/gsm8k"), "no gsm8k/train")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            make_plan("full", **given)


def test_a_rehearsal_asked_for_the_hub_goes_on(base):
    given = dict(tier="full", rehearse=True, task_dir="hub", core="hub", compile="off")
    run = open_run(**given)
    assert open_run(**given).plan == run.plan and run.plan.task_dir.endswith("rehearsal_sets")


def test_a_stage_goes_on_with_the_sets_that_it_began_with(own):
    plan = make_plan("smoke", task_dir=own)
    run, begun = SimpleNamespace(plan=plan), Training(None, None)
    same_sets(run, "sft", plan.sft.mix, begun)
    assert set(begun.sets) == {"smoltalk", "gsm8k", "arc_easy", "arc_challenge"}, "those it learns from"
    resumed = Training(None, None, step=2, sets=dict(begun.sets))
    same_sets(run, "sft", plan.sft.mix, resumed)
    [file] = set_files(own, "gsm8k/train")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(UserError, match="sft: gsm8k in .*bring them back"):
        same_sets(run, "sft", plan.sft.mix, resumed)
    made_here = Training(None, None)
    same_sets(SimpleNamespace(plan=make_plan("smoke")), "sft", make_plan("smoke").sft.mix, made_here)
    assert made_here.sets is None, "World is code, and has a test of its own"


def test_a_set_of_the_hub_is_known_by_its_rows(monkeypatch):
    rows = [dict(question=f"{i}?", answer=f"#### {i}") for i in range(1200)]
    monkeypatch.setattr(GSM8K, "rows", lambda self, split: rows)
    first = GSM8K("gsm8k", "hub").fingerprint()
    assert GSM8K("gsm8k", "hub").fingerprint() == first
    rows.append(rows[0])
    assert GSM8K("gsm8k", "hub").fingerprint() != first


def test_a_run_on_real_text_spells_the_words_of_its_tokenizer(own):
    text = "a zeppelin and a kangaroo met another zeppelin and another kangaroo " * 40
    tok = Tokenizer.train([text], 330)
    assert {"zeppelin", "kangaroo", "another"} <= set(whole_words(tok)) and "a" not in whole_words(tok)
    plan = make_plan("smoke", task_dir=own)
    task, plain = run_tasks(plan, tok)["spelling"], run_tasks(plan)["spelling"]
    assert isinstance(task, TokenSpelling) and type(plain) is type(
        run_tasks(make_plan("smoke"), tok)["spelling"]
    )
    assert not set(task.words["train"]) & set(task.words["test"])
    assert 0.1 < len(task.words["test"]) / sum(map(len, task.words.values())) < 0.3
    items = task.test(200)
    assert items == task.test(300)[:200] and {it["word"] for it in items} <= set(task.words["test"])
    counts = [it for it in items if it["kind"] == "count"]
    assert 25 < len(counts) < 75
    for it in counts:
        letters, number = it["answer"].split(": ")
        asked = it["question"].split()
        [letter] = [word for word in asked if len(word) == 1 and word.islower()]
        assert letters.replace("-", "") == it["word"] and int(number) == it["word"].count(letter)
        assert task.right(it, f" {it['answer']} ") and not task.right(it, number)
    taught = [task.train(random.Random(i)) for i in range(300)]
    words = {word.strip("?.") for talk in taught for word in talk[0]["content"].split()}
    assert not words & set(task.words["test"]) - {"word", "letter", "first"}, "which the questions hold"
    assert set(whole_words(tok)) <= {*task.words["train"], *task.words["test"]}


def test_the_letter_is_chosen_by_likelihood(own, tok):
    "A model whose head prefers one letter: it is right exactly where that letter is"
    from nanochat.gpt import GPT, GPTConfig
    from nanochat.tasks import task_exam

    torch.manual_seed(0)
    shape = dict(n_layer=1, n_embd=32, n_head=2, n_kv_head=2)
    model = GPT(GPTConfig(vocab_size=tok.vocab_size, seq_len=512, **shape)).eval()
    letter = tok.encode("C")[0]
    with torch.no_grad():  # blocks that begin at zero add nothing: what is read is the last token alone
        z = model.hidden(torch.tensor([[tok.bos, tok.special("<|assistant_start|>")]]))[0, -1]
        model.lm_head.weight[letter] = z
    items, verdicts = task_exam(model, None, tok, Letters("arc_challenge", own), 48)
    assert {v.text for v in verdicts} == {"C"}
    assert [v.right for v in verdicts] == [it["gold"] == 2 for it in items]


# --- a whole run on files ---


@pytest.mark.slow
def test_a_run_learns_from_files_and_is_asked_from_them(own, tmp_path):
    "The whole road on the files of public sets: every stage, every exam, one table"
    base = tmp_path / "base"
    options = ["--tier", "smoke", "--task_dir", own, "--core", own + "/core", "--run", "files"]
    done = door(*options, base=base, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(base, "files")
    plan = read_plan(run.dir)
    assert (plan.task_dir, plan.core) == (own, own + "/core")
    summary = json.loads((run.dir / "results" / "summary.json").read_text())["scores"]
    assert summary["base"]["dclm_core"]["n"] == 72 and "part" not in summary["base"]["dclm_core"]
    for stage in ("mid", "sft", "rl"):
        assert "gsm8k" in json.loads((run.last(stage) / "meta.json").read_text())["sets"], stage
        assert {"arc_easy", "mmlu", "gsm8k", "humaneval", "chatcore"} <= set(summary[stage]), stage
        lines = (run.dir / "results" / f"items_{stage}.jsonl").read_text().splitlines()
        assert {json.loads(line)["task"] for line in lines} >= {"gsm8k", "humaneval", "identity"}
    report = (run.dir / "report.md").read_text()
    assert "## The road in one table" in report and "| ChatCORE |" in report and "MMLU" in report
    refused(door(*options[:2], "--run", "files", "--task_dir", "world", base=base), "task_dir")


@pytest.mark.slow
def test_the_door_names_a_folder_that_is_none(tmp_path):
    base = tmp_path / "base"
    (tmp_path / "file").write_text("x")
    for option, value, why in (
        ("--task_dir", tmp_path / "nowhere", "no such folder"),
        ("--task_dir", tmp_path / "file", "must be a folder"),
        ("--core", tmp_path, "no core.yaml"),
    ):
        done = door("--tier", "smoke", option, value, base=base)
        refused(done, why)
    assert not (base / "runs").exists()


def test_sets_and_their_licences_are_named():
    assert all(found.source and found.hub.count("/") == 1 for found in PUBLIC.values())
    assert set(PUBLIC) == set(PUBLIC_KINDS)
    with pytest.raises(KeyError):
        public_rows("unknown", "test", "hub")
