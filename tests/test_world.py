"World over several seeds: counts, splits, its English, its tables, and a record of its text"

import hashlib, itertools, json, re, subprocess, sys
from collections import Counter
from random import Random
import pytest
from conftest import ROOT, environment
from nanochat.runs import UserError
from nanochat.tasks import identity_exam, identity_questions, identity_tables, who_are_you
from nanochat.world import (
    GRID,
    N_PEOPLE,
    PARTNERS,
    Fact,
    World,
    compute,
    in_val,
    is_test_index,
    is_test_pair,
    operands,
    own_tables,
    parse_plot,
)

SEEDS = range(6)
TABLES = own_tables()
PERSON, RELATIONS = TABLES.person, TABLES.person | TABLES.place | TABLES.nature


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_in_closed_form(seed):
    w = World(seed)
    steps = GRID * (GRID - 1)
    assert {r: len(fs) for r, fs in w.by_relation.items()} == {r: N_PEOPLE for r in PERSON} | dict.fromkeys(
        ("goods", "market", "sight", "flag"), GRID**2
    ) | dict(north=steps, east=steps) | dict.fromkeys(("sound", "eats", "legs", "lair"), 16) | dict.fromkeys(
        ("crop_colour", "taste", "grown"), 18
    ) | dict(weather=12, festival=12)
    for r in (
        "home",
        "job",
        "pet",
        "colour",
        "food",
        "hobby",
        "month",
        "day",
    ):  # each value as often as the others, to within one
        uses = Counter(f.value for f in w.by_relation[r]).values()
        assert max(uses) - min(uses) <= 1, r
    for r in PARTNERS:
        assert all(w.value[f.value, r] == f.subject != f.value for f in w.by_relation[r])
    assert not any(w.value[p.name, "friend"] == w.value[p.name, "sibling"] for p in w.people)


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_facts(seed):
    w = World(seed)
    for r, fs in w.by_relation.items():
        assert abs(sum(f in w.test_facts for f in fs) - 0.3 * len(fs)) <= 1.5, r
        assert set(w.open_facts[r]) == set(fs) - w.test_facts
    assert all(
        (Fact(f.value, f.relation, f.subject) in w.test_facts) == (f in w.test_facts)
        for r in PARTNERS
        for f in w.by_relation[r]
    )
    assert all(
        len([f for f in w.facts_of(p.name, PERSON) if f not in w.test_facts]) >= 2 for p in w.people
    )  # exercise 4 asks each for two


@pytest.mark.parametrize("seed", SEEDS)
def test_choices(seed):
    w = World(seed)
    facts = set(w.facts)
    for q in [*w.questions("train"), *w.questions("test")]:
        f = q["fact"]
        wrong = [c for i, c in enumerate(q["choices"]) if i != q["gold"]]
        assert q["choices"][q["gold"]] == f.value and len(set(q["choices"])) == 4 and f.subject not in wrong
        assert not any(Fact(f.subject, f.relation, c) in facts for c in wrong)
        if f.relation == "north":
            assert all(w.place[c].y <= w.place[f.subject].y for c in wrong)
        if f.relation == "sibling":
            assert len({w.person[c].he for c in q["choices"]}) == 1


def test_rules_split_evenly():
    pairs = [(a, b) for a in range(2, 100) for b in range(2, 100)]
    assert (
        all(is_test_pair(a, b) == is_test_pair(b, a) for a, b in pairs)
        and 0.17 < sum(is_test_pair(*p) for p in pairs) / len(pairs) < 0.19
    )
    for a in range(2, 100):
        assert (
            0.1 < sum(is_test_pair(a, b) for b in range(2, 100)) / 98 < 0.3
        )  # every number is met in both splits
    assert sum(map(is_test_index, range(100))) == 20
    docs = [World(1).doc_story(World(1).rng("try", i)) for i in range(400)]
    assert 0.07 < sum(map(in_val, docs)) / len(docs) < 0.18


def test_fewer_are_the_first_of_more():
    w = World(2)
    for many in (
        lambda n: w.sums("train", n),
        lambda n: w.word_problems("practice", n),
        lambda n: w.spelling("test", n),
        lambda n: w.letter_items(n),
        lambda n: w.dialogues("train", n),
    ):
        assert many(20) == many(40)[:20]
    assert w.core_items(20) == w.core_items()[:20]
    for s in w.sums("test", 200):
        assert compute(s["expr"]) == s["answer"] and is_test_pair(*operands(s["expr"]))


@pytest.mark.parametrize(
    "call",
    [
        lambda w: next(w.documents("test")),
        lambda w: next(w.documents(weights={"poem": 1})),
        lambda w: w.questions("val"),
        lambda w: w.programs("valid"),
        lambda w: identity_questions(w, "all"),
        lambda w: identity_questions(w, "train"),
        lambda w: w.spelling_words("dev"),
        lambda w: w.word_problems("test", 1, level=4),
        lambda w: w.sums("val", 1),
    ],
)
def test_unknown_splits_are_refused(call):
    with pytest.raises(ValueError) as e:
        call(World(0))
    assert "\n" not in str(e.value)


# its English

AN = re.compile(
    (
        r"\b(a|A) (?=[aeiou])(?!(?:one|once|european)\b|us(?:e|er|ual)|uni[^mn])|\b(an|An) "
        r"(?![aeiou]|hour|honest|AI\b|[AEFHILMNORSX]\b)"
    )
)


def neighbours(pattern):
    "All pairs of neighbouring words over all expansions of `(this/that/) one`"
    last, pairs = {""}, set()
    for part in re.findall(r"\([^)]*\)|[^(]+", pattern):
        ends = set()
        for choice in part[1:-1].split("/") if part.startswith("(") else [part]:
            words = choice.split()
            pairs |= {(a, words[0]) for a in last if words} | set(zip(words, words[1:]))
            ends |= {words[-1]} if words else last
        last = ends
    return pairs


def visitors():
    "All that people ask a model about itself"
    for table in (*identity_tables().questions.values(), identity_tables().frames):
        yield from itertools.chain(*table.values())
    yield from (it["question"] for it in identity_exam()[0])


def wordings_of_the_tables():
    "Every pattern that World's tables hold"
    yield from visitors()
    for row in TABLES.problems:
        yield from row["steps"] + row["plain"] + row["other"]
    story, spelling, chat = TABLES.story, TABLES.spelling, TABLES.chat
    yield from story["train"] + story["test"] + story["question"]
    yield from itertools.chain(*spelling["say"].values(), *spelling["ask"].values())
    yield from itertools.chain(*chat["hello"], *chat["thanks"], *chat["advice"], *chat["unknowable"])
    for table in RELATIONS.values():
        yield from itertools.chain(*table.values())
    for plot in TABLES.plots:
        yield from filter(None, plot["tale"].split("\n"))
    for row in TABLES.programs:
        if row["args"] != "a, b":  # there a is a number
            yield from row["docs"]


def test_neighbours_are_those_of_every_expansion():
    assert neighbours("a (cat/owl/) or (an/) ant") == {
        ("", "a"),
        ("a", "cat"),
        ("a", "owl"),
        ("a", "or"),
        ("cat", "or"),
        ("owl", "or"),
        ("or", "an"),
        ("or", "ant"),
        ("an", "ant"),
    }
    assert [
        bool(AN.match(" ".join(p)))
        for p in (
            ("a", "owl"),
            ("an", "cow"),
            ("a", "cow"),
            ("an", "owl"),
            ("an", "hour"),
            ("a", "university"),
            ("an", "AI"),
        )
    ] == [True, True] + [False] * 5


def test_a_and_an_in_every_wording():
    tables = list(wordings_of_the_tables())
    assert len(tables) > 2500
    assert not [(a, b, p) for p in tables for a, b in neighbours(p) if AN.match(f"{a} {b}")]
    w = World(3)
    told = [
        x.format_map(w.slots(f))
        for f in w.facts
        for kind in ("say", "vp", "me", "ask", "you", "core")
        for x in RELATIONS[f.relation].get(kind, ())
    ]
    rng = Random(0)
    asked = [who_are_you(rng)["question"] for _ in range(5000)]
    problems = [p["question"] for split in ("train", "practice", "test") for p in w.word_problems(split, 300)]
    stories = list(
        itertools.islice(w.documents(weights=dict(person=1, place=1, nature=1, story=1, talk=1)), 600)
    )
    assert len(told) > 15_000 and not [t for t in (*told, *asked, *problems, *stories) if AN.search(t)]


# German in English words, and genitives of people, as they once stood here
FOREIGN = [
    r"\bAs what\b",
    r"\bthe rest of n\b",
    r"is there a rest\b",
    r"\bwithout the rest\b",
    r"How often does",
    r"\bblanks?\b",
    r"for the \{a\} that",
    r"number of \{[AB]\}",
    r"have room",
    r"\bgave the others away for",
    r"with these\?",
    r"come back to",
    r"coins came to",
    r"[Ii]n the \w+ of \{[AB]\}",
    r"\b(?:bag|box|shop|house|table|tables|list) of \{[AB]\}",
    r"\{i\} of \{[AB]\}",
    r"\{i\} more than \{",
    r"until now",
    r"\bOne of the \{i\} costs",
    r"^To the market came",
    r"^With \{c\} coins \{A\}",
    r"^On \{b\} tables",
    r"^Of (?:the )?\{",
    r"[Ww]ith whom",
    r"[Ww]ith which letter",
    r"with care",
    r"on the market\.",
    r"how often the",
    r"has \{r\} birthday",
    r"have my birthday",
    r"falling order",
    r"\bdoubles\b",
]


def test_the_words_are_english():
    "In all that World itself says; what visitors ask of a model may be worded as visitors do"
    asked = set(visitors())
    assert not [
        (rx, p) for p in wordings_of_the_tables() if p not in asked for rx in FOREIGN if re.search(rx, p)
    ]


PROBE = """
import hashlib, itertools, json
from nanochat.tasks import identity_questions
from nanochat.world import World
out = {}
for seed in (0, 1):
    w = World(seed)
    parts = dict(
        facts=w.facts, held=sorted(w.test_facts), core=w.core_items(), questions=w.questions("test"),
        train=list(itertools.islice(w.documents(), 600)), val=list(itertools.islice(w.documents("val"), 60)),
        problems=[w.word_problems(s, 60) for s in ("train", "practice", "test")],
        sums=w.sums("train", 200), programs=w.programs("test"), spelling=w.spelling("train", 200),
        letters=w.letter_items(100), dialogues=w.dialogues("test", 60),
        identity=[identity_questions(w, s, 200) for s in ("train", "test")])
    out[seed] = {k: hashlib.sha256(repr(v).encode()).hexdigest()[:16] for k, v in parts.items()}
print(json.dumps(out))
"""

RECORD = {  # made by the loop above, of seeds 0 and 1
    "0": {
        "facts": "9af66563e7408acb",
        "held": "24bce34d03992d2c",
        "train": "f94f07b922433758",
        "val": "71889181d170b5ab",
        "core": "bf7ee35a31fa4056",
        "questions": "88dc16bb516dc596",
        "sums": "ed8a6fce0fb5281e",
        "problems": "b2ae037230b72e84",
        "programs": "bcd0ea5d5af64eb7",
        "spelling": "08e0a75323a67c2a",
        "letters": "8c4f8f0dd21f0bd1",
        "dialogues": "b1530706e35fefad",
        "identity": "53e04fd6d64b9ad6",
    },
    "1": {
        "facts": "ff0872e3fb689ae5",
        "held": "bf190f7e1f6111be",
        "train": "50b2821802439170",
        "val": "6004631a4a534a02",
        "core": "2fceb448e936d504",
        "questions": "c2abcbbc449252d2",
        "sums": "eb4aad228423ab80",
        "problems": "ad1460a587bb5207",
        "programs": "bcd0ea5d5af64eb7",
        "spelling": "89a2852e8e452514",
        "letters": "ac0b564bd00ba2a9",
        "dialogues": "ff01ec65e2f03f2b",
        "identity": "464af5ea69a3a4db",
    },
}


def probe(hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(PYTHONHASHSEED=hash_seed),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_text_is_the_recorded_one():
    "Every measured result rests on this text: whoever changes it on purpose measures and records again"
    assert probe("1") == probe("77") == RECORD


TABLE_SHA = {  # the tables are the words of that text: one changed letter is another world
    "world.toml": "fe692f38a90b6b10b1dd9d859cc9ea5adc8eb441a8f1ac6a724da3b204ceaea6",
    "talk.toml": "f05a396b27636c64d5618e92e9d22ec00e3989bfb9e6bf675573ba1bebbe4fdf",
    "identity.toml": "5c27bc16143d7c960297c8b09ce9ea8f27c6735c985e85fbf817803522655fc6",
}


def toml(name):
    return ROOT / "nanochat" / name


@pytest.mark.parametrize("name", TABLE_SHA)
def test_tables_are_the_recorded_ones(name):
    assert hashlib.sha256(toml(name).read_bytes()).hexdigest() == TABLE_SHA[name]


@pytest.mark.parametrize("name", TABLE_SHA)
def test_tables_can_be_read_by_people(name):
    lines = toml(name).read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 110
    comments = sum(line.startswith("#") for line in lines)
    assert comments >= 8


# what the tables hold


def test_every_wording_of_every_fact_can_be_filled_in():
    w = World(0)
    for f in w.facts:
        for kinds, pronoun in ((w.relations[f.relation], p) for p in (False, True)):
            for wording in itertools.chain(*kinds.values()):
                assert "{" not in wording.format_map(w.slots(f, pronoun)), wording


def test_statements_tell_their_value_and_questions_do_not():
    def tells(wording):
        return re.search(r"\{(v|vs|av)\}", wording)

    for kinds in RELATIONS.values():
        assert len(kinds["say"]) >= 9 and len(kinds["ask"]) >= 4 and len(kinds["core"]) >= 2
        assert all(tells(s) for s in kinds["say"] + kinds.get("vp", []) + kinds.get("me", []))
        assert not any(tells(s) for s in kinds["ask"] + kinds.get("you", []) + kinds["core"])


def test_every_line_of_every_plot_can_be_told():
    w, rng = World(1), Random(0)
    for roles, differ, beats in map(parse_plot, TABLES.plots):
        d = w.scene(rng, w.cast(rng, roles, differ))
        assert "A" in roles and len(beats) >= 7
        for _, lines in beats:
            assert len(lines) >= 2 and not [line for line in lines if "{" in line.format_map(d)]
    for _ in range(200):
        c = w.cast(rng, {"A": "", "B": "friend", "C": "job", "D": "any"}, [("AB", "food"), ("AD", "home")])
        assert c["B"] == w.value[c["A"], "friend"] and w.value[c["C"], "job"] == w.value[c["A"], "job"]
        assert len(set(c.values())) == 4 and w.value[c["A"], "food"] != w.value[c["B"], "food"]


def test_problems_use_what_they_are_given():
    w = World(0)
    numbers = TABLES.grammar["numbers"]
    for split in ("train", "practice", "test"):
        for p in w.word_problems(split, 400):
            in_words = {i for i, x in enumerate(numbers) if re.search(rf"\b{x}\b", p["question"], re.I)}
            given = {int(x) for x in re.findall(r"\d+", p["question"])} | in_words
            for step in p["steps"]:
                assert set(operands(step["expr"])) <= given, p
                assert len(step["say"].split()) <= 8
                assert is_test_pair(*operands(step["expr"])) == (split == "test")
                given.add(compute(step["expr"]))
            assert len(p["steps"]) == p["level"] and compute(p["steps"][-1]["expr"]) == p["answer"]
    assert sum(bool(row["plain"]) for row in TABLES.problems) >= 14


def test_answers_about_letters():
    w = World(0)
    assert len(TABLES.spelling["words"]) == len(set(TABLES.spelling["words"]))
    for q in w.spelling("test", 300):
        word = q["word"].lower()
        right = dict(spell="-".join(word), letters=str(len(word)), first=word[:1], last=word[-1:])
        assert q["answer"] == right[q["kind"]]
    items = w.letter_items(2000)
    assert all(len(set(it["choices"])) == len(it["choices"]) for it in items)
    assert all(it["item"] == it["choices"][it["gold"]] for it in items)
    for c in w.core_items():
        assert not c["query"].endswith(" ") and all(x[0] == " " != x[1] for x in c["choices"])


def test_importing_reads_no_file():
    "The tables are read when the first world is made, and not before"
    code = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import nanochat.world as m
print(any(name.endswith(".toml") for name in opened), m.own_tables.cache_info().currsize)
m.World(0)
print(any(name.endswith("world.toml") for name in opened), m.own_tables.cache_info().currsize)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment()
    )
    assert done.stdout.split("\n")[:2] == ["False 0", "True 1"], done.stderr


# a world of one's own


@pytest.fixture
def mine(tmp_path):
    "Writes World's tables with some texts replaced, and gives back their path"

    def write(*changes):
        text = toml("world.toml").read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
        return tmp_path / "mine.toml"

    return write


def first_texts(w):
    "A little of all that a world can say"
    docs = [next(w.documents(weights={kind: 1})) for kind in w.KIND_WEIGHTS]
    return (
        docs,
        w.questions("test"),
        w.core_items(),
        w.word_problems("test", 20),
        w.dialogues("train", 20),
        w.programs("test"),
    )


def test_the_same_tables_make_the_same_world(mine):
    assert first_texts(World(3, tables=mine())) == first_texts(World(3))


def test_other_words_make_another_world(mine):
    path = mine(
        ('"baker"', '"pirate"'), ('"Arden"', '"Atlantis"'), ("{s} lives in {v}.", "{s} is at home in {v}.")
    )
    w = World(0, tables=str(path))
    said = "\n".join(itertools.islice(w.documents(), 600))
    assert "pirate" in said and "baker" not in said and "is at home in" in said and "lives in" in said
    assert "pirate" in w.values["job"] and World(0).values["job"] != w.values["job"]


def test_what_is_written_anew_is_read_anew(mine):
    assert "pirate" in World(0, tables=mine(('"baker"', '"pirate"'))).values["job"]
    assert "wizard" in World(0, tables=mine(('"baker"', '"wizard"'))).values["job"]


@pytest.mark.parametrize(
    "change,said",
    [
        (("[people]", "[poeple]"), "people is missing: rename 'poeple' to 'people'"),
        (("[quiz]\n", "[old_quiz]\n"), "quiz is missing: rename 'old_quiz' to 'quiz'"),
        (("jobs = [", "trades = ["), "people.jobs is missing: copy it from world.toml"),
        (("[short]", "moons = 2\n\n[short]"), "talk.moons is nothing that a world knows: remove it"),
        (("person = 42", 'person = "often"'), "documents.person should be a whole number"),
        (
            (
                'days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]',
                "days = []",
            ),
            "calendar.days is empty: give at least one",
        ),
        (
            (
                'days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]',
                'days = ["Monday"]',
            ),
            "calendar.days has 1 different entries: give at least 4",
        ),
        (
            ('"Nora", "Olga", "Pia", "Rosa", "Sara", "Tina", "Una", "Vera", "Wanda", "Yara", "Zoe",', ""),
            "names.she has 29 different entries: give at least 30",
        ),
        (('"Arden"', '"Birk"'), "names has 'Birk', which stands twice or is not one word"),
        (('"Arden"', '"Old Town"'), "names has 'Old Town', which stands twice or is not one word"),
        (
            ("{s} lives in {v}.", "{s} lives in {village}."),
            "asks for 'village': use the braces in world.toml",
        ),
        (("{s} lives in {v}.", "{s} lives in {v.name}."), "use the braces in world.toml"),
        (('name = "hen"', 'name = "cow"'), "kingdoms.animals.name has 15 different entries"),
        (
            ('result = "n + {k}"', """result = "().__class__.__base__.__subclasses__()" """),
            "programs: add_{k} has an underscore",
        ),
        (
            ('examples = ["3", "10", "0", "27"]\n', ""),
            "programs.examples is missing: copy it from world.toml",
        ),
        (('title = "The lost pet"', "title = 3"), "plots.title should be a text"),
        (("[grammar]", "[grammar"), "is no TOML"),
    ],
)
def test_what_is_amiss_is_said_in_one_line(mine, change, said):
    path = mine(change)
    with pytest.raises(UserError) as e:
        World(0, tables=path)
    assert said in str(e.value) and str(path) in str(e.value) and "\n" not in str(e.value)


def test_programs_of_a_table_reach_nothing(mine):
    "A table is data, and may come from a stranger"
    for result in ("open('/etc/passwd').read()", "exec('1')", "breakpoint()", "type(n)", "vars()"):
        w = World(0, tables=mine(('result = "n + {k}"', f'result = "{result}"')))
        with pytest.raises((NameError, TypeError)):
            w.programs("train")
    free = World(0, tables=mine(('result = "n + {k}"', 'result = "sum(range(n)) + {k}"')))
    assert free.programs("train")


def test_few_values_still_have_the_right_one_among_the_choices(mine):
    "Four foods, one of them an animal: asked what a mouse eats, only two wrong ones are left"
    eaten = dict.fromkeys(animal["eats"] for animal in own_tables().kingdoms["animals"])
    foods = itertools.cycle(["mouse", "fish", "oats", "bread"])
    changes = [(f'eats = "{old}"', f'eats = "{new}"') for old, new in zip(eaten, foods)]
    w = World(0, tables=mine(*changes))
    mice = [fact for fact in w.by_relation["eats"] if fact.subject == "mouse"]
    asked = [w.choices(Random(i), fact) for i in range(200) for fact in mice]
    assert asked and {len(item["choices"]) for item in asked} == {3}
    assert all(item["choices"][item["gold"]] == mice[0].value for item in asked)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match="give the path of a copy of world.toml"):
        World(0, tables=tmp_path / "nothing.toml")


def test_a_calendar_may_have_ten_months(mine):
    w = World(1, tables=mine(('"January", "February",', "")))
    assert len(w.by_relation["weather"]) == len(w.by_relation["festival"]) == 10
    docs = list(itertools.islice(w.documents(), 500))
    assert len(docs) == 500 and not [d for d in docs if "January" in d]
    assert len(w.core_items()) == len(w.facts) == 890 - 4
