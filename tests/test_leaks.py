"What an exam asks stands in no training text: every task against megabytes of documents and conversations"

import functools, itertools, random, re, time
from dataclasses import dataclass
from nanochat.scaling import make_plan
from nanochat.sft import mixture
from nanochat.tasks import identity_questions, identity_tables, world_tasks
from nanochat.corpus import documents
from nanochat.world import World, own_tables
import pytest

SEEDS = (0, 1, 2)
TABLES = own_tables()
NUMBERS = TABLES.grammar["numbers"]
RELATIONS = TABLES.person | TABLES.place | TABLES.nature
HELD_OUT_WORDINGS = {relation: table["core"] for relation, table in RELATIONS.items()}


@dataclass
class Reading:
    "All that a model of one world reads before it is examined, and what it is examined on"

    world: World
    tasks: dict
    docs: list  # three megabytes of documents, and one of those that open the course
    talks: list  # conversations of midtraining and fine-tuning, with the settings' own weights
    practice: list  # problems of reinforcement learning

    @functools.cached_property
    def texts(self):
        return [*self.docs, *map(plain, self.talks), *(p["question"] for p in self.practice)]

    @functools.cached_property
    def said(self):
        return sentences(self.texts)


def plain(talk):
    "A conversation as text, calls of the tool included"
    if isinstance(talk, str):
        return talk
    return "\n".join(
        m["content"] if isinstance(m["content"], str) else " ".join(p["text"] for p in m["content"])
        for m in talk
    )


def take(stream, n_bytes):
    out, n = [], 0
    while n < n_bytes:
        out.append(next(stream))
        n += len(out[-1])
    return out


@pytest.fixture(scope="module", params=SEEDS, ids="world {}".format)
def read(request):
    plan = make_plan("laptop", seed=request.param)
    tasks = world_tasks(plan)
    w = tasks["mc_easy"].world
    talks = [t for stage in ("mid", "sft") for t in itertools.islice(mixture(None, plan, stage)(), 7000)]
    practice = [tasks["word_problems"].train_item(random.Random(i)) for i in range(800)]
    return Reading(
        w,
        tasks,
        take(w.documents(), 3_000_000) + take(documents("world", "train", plan.seed), 1_000_000),
        talks,
        practice,
    )


# the searches: each is tried below on a text with a planted leak


def words(text):
    return " ".join(text.lower().split())


def sentences(texts):
    "Every different end of a sentence in the texts, in lower case, as words; docstrings of programs aside"
    out = set()
    for text in texts:
        text = re.sub(r'""".*?"""|Write a Python function .*', "", text)
        out.update(part[-160:] for part in re.findall(r"[^.?!]*[.?!]", text.lower()))
    return {tuple(part.split()) for part in out}


def uttered(said, wanted):
    "Which of the sentences `wanted` (lower case, with their last mark) end something that is said"
    found, last = set(), {w.split()[-1] for w in wanted}
    for ws in said:
        if ws[-1] in last:
            found.update(tail for k in range(len(ws)) if (tail := " ".join(ws[k:]).lstrip("\"'(")) in wanted)
    return found


def completed(text, wording):
    "Places in a lower-case text where a held-out wording stands, with any words in its braces"
    literal = max(re.split(r"\{\w+\}", wording.lower()), key=len)
    rx = re.compile(r"\b" + re.sub(r"\\\{\w+\\\}", r"[\\w ]+", re.escape(wording.lower())))
    return [
        m.start()
        for m in re.finditer(re.escape(literal), text)
        if rx.search(text[max(0, m.start() - 90) : m.end() + 90])
    ]


def pairs(texts):
    "Unordered pairs of numbers that are computed with somewhere, in digits or in words"
    value, out = {w: i for i, w in enumerate(NUMBERS)}, set()
    in_words = re.compile(
        rf"\b({'|'.join(NUMBERS)}) (?:plus|and|minus|less|times|divided by) ({'|'.join(NUMBERS)}) is\b"
    )
    for t in texts:
        for a, b in re.findall(r"(?<![\d.])(\d+) ?[-+*/] ?(?=(\d+))", t):
            out.add(tuple(sorted((int(a), int(b)))))
        for a, b in in_words.findall(t.lower()):
            out.add(tuple(sorted((value[a], value[b]))))
    return out


def pairs_of(expr):
    return tuple(sorted(map(int, re.findall(r"\d+", expr))))


class Wording:
    "A word problem without its names, things, numbers and distracting sentence"

    def __init__(self, world):
        self.sign = {x.lower(): sign for sign, names in self.kinds(world) for x in names}
        idle = TABLES.story["train"] + TABLES.story["test"]
        self.useless = {d.format(A="P", z="N", k="I", P="L", D="D").lower() for d in idle}

    def kinds(self, world):
        days, things = TABLES.calendar["days"], TABLES.story["things"]
        return ("p", world.person), ("l", world.place), ("d", days), ("i", things), ("n", NUMBERS)

    def __call__(self, question):
        masked = re.sub(
            r"\w+", lambda m: "n" if m[0].isdigit() else self.sign.get(m[0], m[0]), question.lower()
        )
        return tuple(s for s in re.split(r"(?<=[.?]) ", masked) if s not in self.useless)


def asked_to_face(world, docs):
    "Held-out facts that one person asks of another in a talk"
    leaks = []
    you = {
        p.name: {
            q.format_map(world.slots(f)): f
            for f in world.facts_of(p.name, TABLES.person)
            for q in RELATIONS[f.relation]["you"]
        }
        for p in world.people
    }
    back = re.compile(
        "(" + "|".join(re.escape(a).replace(r"\{a\}", r"\w+") for a in TABLES.talk["and_you"]) + r")\Z"
    )
    for doc in docs:
        turns = [
            m.groups()[::-1] if m.re.groupindex.get("said") else m.groups()
            for l in doc.split("\n")
            for m in [SPEECH.match(l) or NOVEL.match(l) or QUOTED.match(l)]
            if m
        ]
        asked = None
        for (_, said), (b, _) in zip(turns, turns[1:]):
            f = (
                next((f for q, f in you.get(b, {}).items() if said.endswith(q)), None)
                if said.endswith("?")
                else None
            )
            if f:
                asked = f.relation
            elif asked and b in you and back.search(said):
                f = next((f for f in world.facts_of(b, [asked])), None)
            if f in world.test_facts:
                leaks.append(f)
    return leaks


SPEECH, NOVEL, QUOTED = (
    re.compile(r"(\w+): (.*)$"),
    re.compile(r'(\w+) \w+: "(.*)"$'),
    re.compile(r'"(?P<said>.*)" \w+ (\w+)\.$'),
)


def closed_questions(world):
    "All ways to ask for a held-out fact"
    return {
        words(q.format_map(world.slots(f))) for f in world.test_facts for q in RELATIONS[f.relation]["ask"]
    }


# facts


def test_facts_are_split(read):
    w = read.world
    train, test = ({it["fact"] for it in w.questions(split)} for split in ("train", "test"))
    assert not train & test and train | test == set(w.facts)
    for r, facts in w.by_relation.items():
        assert 0.2 < sum(f in test for f in facts) / len(facts) < 0.4, r
    for f in test:  # who is Nora's friend? and whose friend is Nora? are one fact
        if f.relation in ("friend", "sibling"):
            assert any(g.subject == f.value and g.relation == f.relation for g in test), f
    for name in ("mc_easy", "mc_hard"):
        assert {it["fact"] for it in read.tasks[name].test(10_000)} == test


def test_no_held_out_fact_is_asked(read):
    assert not uttered(read.said, closed_questions(read.world))
    assert not asked_to_face(read.world, read.docs)
    opened = {
        words(q.format_map(read.world.slots(f)))
        for fs in read.world.open_facts.values()
        for f in fs
        for q in RELATIONS[f.relation]["ask"]
    }
    assert len(uttered(read.said, opened)) > 0.9 * len(
        opened
    )  # the search finds what is there: nearly all others are asked


def test_core_wordings_are_new(read):
    text = words(" . ".join(read.texts))
    assert not {r: hits for r, xs in HELD_OUT_WORDINGS.items() for x in xs if (hits := completed(text, x))}
    for it in read.world.core_items():
        assert any(completed(words(it["query"]), x) for x in HELD_OUT_WORDINGS[it["relation"]]), (
            it
        )  # and these wordings are what is asked
    assert completed(text, "{n} lives in") and completed(text, "{n} is known for its")


# numbers


def test_no_pair_of_numbers_is_shared(read):
    w = read.world
    exam = {pairs_of(it["expr"]) for it in w.sums("test", 3000)} | {
        pairs_of(s["expr"]) for p in w.word_problems("test", 600) for s in p["steps"]
    }
    trained = pairs(read.texts) | {pairs_of(s["expr"]) for p in read.practice for s in p["steps"]}
    assert not exam & trained
    assert len(exam) > 1000 and len(trained) > 3000


def test_problems_are_worded_anew(read):
    w, exam = read.world, read.tasks["word_problems"].test(600)
    asked = {m["content"] for t in read.talks if not isinstance(t, str) for m in t if m["role"] == "user"} | {
        p["question"] for p in read.practice
    }
    assert not {it["question"] for it in exam} & asked
    text = "\n".join(read.docs)
    assert not [it for it in exam if it["question"] in text]
    wording = Wording(w)
    solved = {
        wording(p["question"]) for split in ("train", "practice") for p in w.word_problems(split, 4000, 1)
    } | {wording(p["question"]) for p in read.practice}
    assert len(solved) > 1000 and not {wording(it["question"]) for it in exam} & solved


# programs, words, identity


def test_programs_are_new(read):
    exam, trained = (read.world.programs(split) for split in ("test", "train"))
    for key in ("prompt", "question"):
        assert not {p[key] for p in exam} & {p[key] for p in trained}
    text = "\n\n".join(read.texts)
    assert not [p for p in exam if p["prompt"] in text or p["question"] in text]
    assert sum(p["prompt"] in text for p in trained) > 0.9 * len(trained)


def spelling_questions(world, split):
    return {
        words(q.format(w=x))
        for x in world.spelling_words(split)
        for asks in TABLES.spelling["ask"].values()
        for q in asks
    }


def test_no_word_of_the_exam_is_asked(read):
    w = read.world
    assert not set(map(str.lower, w.spelling_words("test"))) & set(map(str.lower, w.spelling_words("train")))
    assert {words(it["question"]) for it in read.tasks["spelling"].test(300)} <= spelling_questions(w, "test")
    assert not uttered(read.said, spelling_questions(w, "test"))
    assert len(uttered(read.said, spelling_questions(w, "train"))) > 300


def test_identity_wordings_are_new(read):
    exam = {words(it["question"]) for it in identity_questions(read.world, "test")}
    assert len(exam) > 100 and not uttered(read.said, exam)
    usual = {words(q) for table in identity_tables().questions.values() for q in table["plain"]}
    assert len(uttered(read.said, usual)) > 0.9 * len(usual)


# what needs no knowledge, and what is never scored


def test_letter_lists_are_drawn_anew(read):
    exam, rng = {it["question"] for it in read.tasks["which_letter"].test(300)}, random.Random(0)
    seen = {t[0]["content"] for t in read.talks if not isinstance(t, str)} | {
        read.tasks["which_letter"].train(rng)[0]["content"] for _ in range(3000)
    }
    seen |= {read.tasks["which_letter"].train_item(rng)["question"] for _ in range(500)}
    assert len(exam & seen) < 0.05 * len(
        exam
    )  # four numbers of legs, seven days: a few small lists must come again


def test_validation_text_is_new(read):
    val = take(read.world.documents("val"), 500_000)
    assert not set(val) & {t for t in (*read.docs, *read.talks) if isinstance(t, str)}
    chats = {split: {repr(c) for c in read.world.dialogues(split, 1000)} for split in ("train", "test")}
    assert not chats["train"] & chats["test"]


# a test that cannot fail is none


def test_a_planted_leak_is_found(read):
    w = read.world
    f = sorted(w.test_facts)[0]
    q = RELATIONS[f.relation]["ask"][0].format_map(w.slots(f))
    assert uttered(sentences([f'Ada said: "Please tell me: {q}" And so on.']), closed_questions(w)) == {
        words(q)
    }
    x = HELD_OUT_WORDINGS[f.relation][0]
    assert completed(words(f"One day it rained. {x.format_map(w.slots(f))} something."), x)
    assert pairs(["12 * 30 = 360. 7+8+9", "Three times four is twelve."]) == {
        (12, 30),
        (7, 8),
        (8, 9),
        (3, 4),
    }
    (a, b), wording = [x.name for x in w.people[:2]], Wording(w)
    assert (
        wording(f"{a} had 3 cakes. {b} had five.")
        == wording(f"{b} had 44 pies. {a} read 12 pages on Monday. {a} had 9.")
        == ("p had n i.", "p had n.")
    )
    held = next(f for f in sorted(w.test_facts) if f.relation in TABLES.person)
    ask = RELATIONS[held.relation]["you"][0].format_map(w.slots(held))
    other = next(x.name for x in w.people if x.name != held.subject)
    for talk in (
        f"{other}: {ask}\n{held.subject}: I will not say.",
        f'"{ask}" asked {other}.\n{held.subject} answered: "No."',
        f'{other} asked: "Well. {ask}"\n"No," said {held.subject}.',
    ):
        assert asked_to_face(w, [talk]) == [held], talk
    spelled = w.spelling_words("test")[0]
    assert uttered(sentences([f"Hello. How do you spell {spelled}?"]), spelling_questions(w, "test"))


def test_ten_megabytes_in_twenty_seconds(record_property):
    t0 = time.process_time()
    n = sum(map(len, take(World(3).documents(), 10_000_000)))
    seconds = time.process_time() - t0
    record_property("seconds_10_mb", seconds)
    print(f"{n / 1e6:.1f} MB of documents in {seconds:.1f} s of CPU time")
    assert seconds < 20
