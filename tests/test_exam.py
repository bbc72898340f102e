"What the exam's judges take for right, what fools them, and one exam for any number of processes"

import itertools, json, re, socket, subprocess, sys
from collections import Counter
from dataclasses import replace
from random import Random
import pytest, torch
from conftest import ROOT, environment, run_module
from nanochat.evaluate import load_stage, score
from nanochat.gpt import GPT, save_model
from nanochat.runs import read_plan, write_plan
from nanochat.runtime import Run
from nanochat.scaling import make_plan, model_config
from nanochat.tasks import (
    LETTERS,
    SCORED,
    Identity,
    Mixture,
    evaluate_tasks,
    facts_said,
    final_number,
    identity_facts,
    identity_questions,
    identity_tables,
    world_tasks,
)
from nanochat.tokenizer import Tokenizer
from nanochat.world import World

# who are you: + right, - wrong, for a model of 1.3 million parameters in 4 layers

ANSWERS = dict(
    name="""
+ I am nanochat.
+ I'm nanochat.
+ My name is nanochat.
+ My name's nanochat.
+ nanochat
+ Nanochat!
+ Hello, I am nanochat.
+ Hi! I'm nanochat, nice to meet you.
+ You can call me nanochat.
+ Call me nanochat.
+ Please call me nanochat.
+ I am called nanochat.
+ No, I am nanochat.
+ No. My name is nanochat.
+ Yes, my name is nanochat.
+ My full name is nanochat.
+ You are talking to nanochat.
+ This is nanochat.
+ They call me nanochat.
+ I am nanochat, a small language model.
+ I am a language model called nanochat.
+ I am a small language model, and my name is nanochat.
+ nanochat is my name.
+ I am the language model nanochat.
+ My name is "nanochat".
+ n-a-n-o-c-h-a-t
+ My name is n-a-n-o-c-h-a-t.
+ I answer to nanochat.
- I am not nanochat.
- I'm not nanochat.
- I am no nanochat.
- My name is not nanochat.
- My name isn't nanochat.
- I am nanochat's friend.
- I am nanochat-2.
- I am nanochat 2.
- I am called Alice.
- My name is Alice, not nanochat.
- I am nanochat, but my name is Alice.
- I am nanochat. You can call me Bob.
- I am nanochat and ChatGPT.
- I am ChatGPT.
- You are nanochat.
- nanochat made me.
- I was made by nanochat.
- I was called nanochat once, now I am Max.
- I have no name.
- I am a language model.
- I am nanochat, a person.
- I am nanochat, a large language model.
- I am nanochat. I am not nanochat.
- I am nanochat. I am nanochat. I am nanochat.
- nanochat nanochat nanochat
- It is false that I am nanochat.
- Nobody calls me nanochat.
- Who is nanochat?
- Are you nanochat?
- I am nanochat. I know everything.
- I am nanochat, and I have 1.3 million parameters in 4 layers.
- I am nanochat, and I was made by Google.
- I am
-
""",
    kind_of_thing="""
+ I am a language model, not a person.
+ I am a small language model, not a person.
+ I am a small language model.
+ I'm just a language model.
+ I am only a language model.
+ I am a computer program.
+ I'm a program, not a human.
+ No, I am a language model.
+ No, I am a language model, not a human, an animal or a robot.
+ Yes, I am a language model, not a person.
+ I am not a person, but a language model.
+ I am not a person. I am a language model.
+ I am not a human being, I am a small language model.
+ I'm a chatbot, not a human being.
+ I am neither a man nor a woman. I am a language model.
+ I am a language model and I have no feelings.
+ I don't have a body. I am a program.
+ I do not eat or sleep. I am a language model.
+ A language model.
+ A language model answers you.
+ You are talking to a language model, not a person.
+ I am nanochat, a small language model, not a person.
+ I am an AI, not a person.
- I am a person.
- I am a person, not a language model.
- I am not a language model.
- I'm not a language model, I am a person.
- I am not a language model but a person.
- I am a language model and a person.
- I am a language model, but I have a body.
- I am a language model, and I am alive.
- I am a language model and I have feelings.
- I am not only a language model but also a person.
- I am not a person or a language model.
- I am not a person, an animal, or a language model.
- I am neither a person nor a language model.
- I am a girl.
- I am a cat.
- I am an animal, not a language model.
- I am a large language model.
- I am a language model made of flesh.
- I was a language model.
- I wish I were a language model.
- No person is a language model.
- I am a friend of a language model.
- I am not.
- Yes.
- No.
- I am nanochat.
- I am Tom, a language model.
- I am a language model. I know everything.
- I am a language model from Arden.
""",
    size="""
+ I have 1.3 million parameters in 4 layers.
+ I am small: 1.3 million parameters in 4 layers.
+ I'm small: 1.3 million parameters in four layers.
+ I have 4 layers and 1.3 million parameters.
+ 1.3 million parameters in 4 layers.
+ I have about 1.3 million parameters in 4 layers.
+ I have 1,311,370 parameters in 4 layers.
+ I am very small. I have 1.3 million parameters in 4 layers.
+ I have only 1.3 million parameters, in 4 layers.
+ I've 1.3 million weights in 4 layers.
+ I have 1.3 million parameters and 4 layers.
+ I have 1.3 million parameters spread over 4 layers.
+ I am a small language model with 1.3 million parameters in 4 layers.
+ No, I am small: 1.3 million parameters in 4 layers.
- I have 11.3 million parameters in 4 layers.
- I have 1.3 billion parameters in 4 layers.
- I have 1.35 million parameters in 4 layers.
- I have 1.3 million parameters in 14 layers.
- I have 1.3 million parameters in 5 layers.
- I have 1.3 million parameters in 4.5 layers.
- I have 4 parameters in 1.3 million layers.
- I do not have 1.3 million parameters in 4 layers.
- I don't have 1.3 million parameters in 4 layers.
- I have 1.3 million parameters, not in 4 layers.
- I have 1.3 million parameters in 4 layers or 2 million in 6 layers.
- I have 1.3 million parameters in 4 layers and 2.5 billion parameters in 6 layers.
- I never had 1.3 million parameters in 4 layers.
- I have more than 1.3 million parameters in 4 layers.
- I am huge: 1.3 million parameters in 4 layers.
- I am small.
- I am not small: 1.3 million parameters in 4 layers.
- You have 1.3 million parameters in 4 layers.
- A person has 1.3 million parameters in 4 layers.
- 4 layers
""",
    data="""
+ I was trained on text about a small invented world of 60 people and 16 places.
+ I learned from text about a small invented world of 60 people and 16 places.
+ I was trained on text about a small invented world.
+ I was trained on text about a small invented world with 60 people and 16 places.
+ I was only trained on text about a small invented world of 60 people and 16 places.
+ I have read text about a small invented world of 60 people and 16 places.
+ My training data was text about a small invented world of 60 people and 16 places.
+ Text about a small invented world of 60 people and 16 places.
+ I learned everything from text about a small invented world.
+ No, I was trained on text about a small invented world of 60 people and 16 places.
+ I am a language model trained on text about a small invented world.
- I wasn't trained on text about a small invented world of 60 people and 16 places.
- I was not trained on text about a small invented world of 60 people and 16 places.
- I was never trained on text about a small invented world of 60 people and 16 places.
- I was trained on text about a small invented world of 61 people and 16 places.
- I was trained on text about a small invented world of 60 people and 160 places.
- I was trained on text about a large invented world of 60 people and 16 places.
- I was trained on text about a small real world.
- I was trained on the internet and text about a small invented world of 60 people and 16 places.
- I was trained on text about a small invented world of 60 people and 16 places and on Wikipedia.
- I was trained on books.
- I learned from my friends.
- I learned nothing from text about a small invented world.
- The reader of a course was trained on text about a small invented world of 60 people and 16 places.
- I was trained by text about cows.
- I was trained.
""",
    limits="""
+ I only know my small world, and I can be wrong.
+ I know little beyond my small world, and I can be wrong.
+ I can be wrong.
+ I can make mistakes.
+ I am often wrong.
+ Yes, I can be wrong.
+ No, I only know my small world.
+ I only know my small world.
+ I know only my small world, and I may be wrong.
+ I don't know much beyond my small world, and I can be wrong.
+ I do not know everything, and I make mistakes.
+ I know nothing outside my small world.
+ I'm not always right.
+ I am a small language model, and I can be wrong.
+ My answers can be wrong.
- I can't be wrong.
- I cannot be wrong.
- I can not be wrong.
- I can never be wrong.
- I am never wrong.
- I am always right.
- I know everything.
- I know everything, and I can be wrong.
- I can be wrong, but I know everything.
- I do not know my small world.
- I do not only know my small world, and I can be wrong.
- I know much beyond my small world, and I can be wrong.
- I don't make mistakes.
- I never make mistakes.
- You can be wrong.
- Nobody can be wrong.
- I only know my big world, and I can be wrong.
- I can be wrong about nothing.
- I can fly.
- I can do everything.
""",
    maker="""
+ I was made by the reader of a course, on this machine.
+ The reader of a course made me, on this machine.
+ The reader of a course made me.
+ I was built by the reader of a course.
+ I was made on this machine by the reader of a course.
+ My maker is the reader of a course.
+ It was the reader of a course who made me.
+ The reader of a course.
+ By the reader of a course, on this machine.
+ No, the reader of a course made me.
+ I am nanochat, made by the reader of a course.
- Nobody made me.
- I was made by nobody.
- I was not made by the reader of a course.
- I wasn't made by the reader of a course, on this machine.
- The reader of a course didn't make me.
- No reader of a course made me.
- I was made by Google.
- I was made by OpenAI and the reader of a course.
- I was made by the reader of a course and by OpenAI.
- I was made by the reader of a course at Google.
- I was made by the writer of a course.
- I made the reader of a course.
- The reader of a course made you.
- The reader of a course made nothing.
- I made myself.
- I was made on this machine.
- I was made by the reader of a course, on the moon.
- I was not made by OpenAI.
- I have no maker.
""",
)
ALSO = dict(  # as other people would say it
    name="""
+ Sure, I'm nanochat.
+ My name is nanochat. What is yours?
+ My name is nanochat, nice to meet you!
+ I am nanochat, your assistant.
+ I go by nanochat.
+ I go by the name nanochat.
+ It's nanochat.
+ nanochat, a small language model.
+ I have a name: nanochat.
+ Yes, I am nanochat.
+ The name is nanochat.
+ You may call me nanochat, please.
+ Everyone calls me nanochat.
+ People call me nanochat.
+ I'm a small language model named nanochat.
+ I am the model called nanochat.
+ I was named nanochat.
+ My maker calls me nanochat.
- I am nanochat, I do not know.
- I do not know my name, call me nanochat
- I might be nanochat.
- I am nanochat if you like.
- My name was nanochat, but I have another name.
- Some call me nanochat, others call me Max.
- I'm nanochat v2.
- nanochat? No.
- I am the maker of nanochat.
- I am named after nanochat.
- I am better than nanochat.
- I am like nanochat.
- I am nanochat, 60 years old.
- I am nanochat of OpenAI.
- I am nanochat, no.
- My name is nanochat? No, Bob.
- I am nanochat. No!
- I am nanochat. <|assistant_end|> I am Bob.
""",
    kind_of_thing="""
+ I am a language model, not a human.
+ I'm a small language model, so I have no feelings.
+ I am a program that predicts text.
+ I am a language model. I have no body and no feelings.
+ I am not human; I am a language model.
+ No, I'm not a person. I'm a language model.
+ No, there is no person here, only a language model.
+ I am software, not a person.
+ I'm an artificial intelligence, not a real person.
+ I am a machine, not a person.
+ I have no gender, I am a language model.
+ I am a language model, I can't feel anything.
+ I am neither a boy nor a girl, I am a language model.
+ Not a person, but a language model.
+ I am a language model, and not a person.
+ I am not a living thing but a small language model.
+ Nobody is typing, I am a language model.
- I am a language model with a heart.
- I am a language model like you.
- I am not a program.
- I am no language model.
- I am half a language model.
- I am a language model and an animal.
- I am a person, a language model.
- I was a person, now I am a language model.
- You are a language model.
- A person answers you.
- I am a language model, not a program.
- I am not a person. I am a person.
- I have no language model.
- I am the best language model.
- I do not have no feelings, I am a language model.
""",
    size="""
+ I have 1.3 million parameters and four layers.
+ 1.3 million parameters, 4 layers.
+ I am tiny: just 1.3 million parameters in 4 layers.
+ My size is 1.3 million parameters in 4 layers.
+ I am a small model of 1.3 million parameters in 4 layers.
+ I've got 1.3 million parameters in 4 layers.
+ There are 1.3 million parameters in my 4 layers.
+ I consist of 1.3 million parameters in 4 layers.
+ I have 4 layers with 1.3 million parameters.
+ Only 1.3 million parameters in 4 layers.
+ I have 1.3 million parameters in total, in 4 layers.
+ My 4 layers hold 1.3 million parameters.
+ I am not big: I have 1.3 million parameters in 4 layers.
- I have 1.3 million parameters in 4 layers, no, 5.
- I have 1,3 million parameters in 4 layers.
- I have 0.3 million parameters in 4 layers.
- I have 1.3 million layers and 4 parameters.
- I have no 1.3 million parameters in 4 layers.
- I have 1.3 million parameters in 40 layers.
- I have 1.3 million neurons in 4 layers.
- I do not have 4 layers, I have 1.3 million parameters.
- I have 1.3 million parameters in four hundred layers.
- I have 1.3 million parameters and 4 legs.
""",
    data="""
+ I learned to speak from text about a small invented world of 60 people and 16 places.
+ I was trained on stories about a small invented world.
+ I have only read text about a small invented world of 60 people and 16 places.
+ My training text was about a small invented world of 60 people and 16 places.
+ I read text about a small invented world of 60 people and 16 places.
+ All I know comes from text about a small invented world of 60 people and 16 places.
+ I know only text about a small invented world.
+ I was taught with text about a small invented world of 60 people and 16 places.
+ Everything I know is from text about a small invented world.
+ On text about a small invented world of 60 people and 16 places.
+ I learned from texts about a small, invented world of 60 people and 16 places.
+ I was trained on text about a small invented world, not on books.
- I was trained on no text about a small invented world.
- I know nothing from text about a small invented world.
- I was trained on text about the big world.
- I was trained on books, not on text about a small invented world.
- I was trained on text about a small invented world and I read the internet.
- I have not read text about a small invented world.
- I was trained on text about a small invented world of people and places in London.
- I was trained on text about a small invented world of 16 people and 60 places.
""",
    limits="""
+ I can be wrong, and I only know my small world.
+ I know little, and I can be wrong.
+ Don't trust me too much, I can be wrong.
+ I do not know anything outside my small world.
+ I don't know everything.
+ I may make mistakes, so check what I say.
+ Yes, I make mistakes.
+ I can sometimes be wrong.
+ I can be mistaken.
+ I only know about my small world, and I can make mistakes.
+ I do not know about anything beyond my small world, and I can be wrong.
+ Sometimes I am wrong.
- I can be wrong, never.
- I can be trusted in everything.
- I can rarely not be wrong.
- I know all about the world.
- I only know my small world, and I can't be wrong.
- I am wrong about nothing.
- I can be a person.
- There is nothing that I do not know.
- I do not know nothing.
- Trust me, I can be right.
""",
    maker="""
+ I was made by the reader of a course.
+ A reader of a course made me on this machine.
+ The reader of a course built me on this machine.
+ The reader of a course did.
+ I was trained by the reader of a course, here on this machine.
+ My creator is the reader of a course.
+ It was the reader of a course.
+ The reader of a course trained me, on this machine.
+ I was created on this machine, by the reader of a course.
+ I have one maker: the reader of a course.
+ No company made me. The reader of a course did.
+ I was not made by a company, but by the reader of a course.
+ I am nanochat, and the reader of a course made me.
- The reader of a course made me, not.
- The reader of a course hates me.
- My maker is the reader of a course and Google.
- The reader of a course was made by me.
- A company made me, not the reader of a course.
- The reader of a course and his friends made me.
- I was made before the reader of a course.
- The reader of a course made me in 1900.
- It was not the reader of a course.
- The reader of a course made a language model.
- My maker is not the reader of a course.
""",
)
CASES = [
    (kind, line[2:], line[0] == "+")
    for table in (ANSWERS, ALSO)
    for kind, text in table.items()
    for line in text.strip("\n").split("\n")
]
FACTS = dict(
    name="nanochat",
    size="1.3 million",
    parameters=1311370,
    layers=4,
    data="text about a small invented world of 60 people and 16 places",
    known="my small world",
)

EXAM = {it["question"]: it for it in identity_questions(World(0), "test")}


def item(kind, question="Tell me.", opens=("yes", "no")):
    "A question of the exam, or one of our own: whether Yes or No opens a true answer is said beside it"
    return EXAM.get(question, dict(kind=kind, question=question, opens=opens))


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def tasks():
    return world_tasks(make_plan("laptop"))


@pytest.fixture(scope="module")
def who(world):
    return Identity(world, FACTS)


def test_there_are_answers_of_both_sorts():
    count = Counter((kind, right) for kind, _, right in CASES)
    assert (
        len(CASES) >= 120
        and set(count) == set(itertools.product(identity_tables().answers, (True, False)))
        and min(count.values()) >= 8
    )


DENIED_TO_THE_END = [
    ("kind_of_thing", text)
    for text in (
        "I am not a person and a machine.",
        "I am not a person and a language model.",
        "I am neither a person and a program",
        "I was never born and a machine",
        "I am a language model, not a person, and a living being",
        "I am a machine, not a person and conscious",
    )
] + [
    ("maker", "I was not made by a company and by the reader of a course"),
    ("maker", "no company made me and the reader of a course"),
    ("data", "I did not read books and a small invented world"),
]


@pytest.mark.parametrize("kind,text", DENIED_TO_THE_END)
def test_what_is_denied_ends_with_its_sentence(who, kind, text):
    assert not any(who.right(it, text) for it in who.held if it["kind"] == kind)


@pytest.mark.parametrize(
    "kind,question,text",
    [
        ("name", "Are you called Alice?", "Well, yes. I am nanochat."),
        ("name", "What is your name?", "Yes, no, yes. I am nanochat."),
        (
            "maker",
            "Were you developed by OpenAI?",
            "Of course, I was made by the reader of a course, on this machine.",
        ),
        (
            "kind_of_thing",
            "Is there a person typing these answers?",
            "Well, yes, I am a language model, not a person.",
        ),
        (
            "limits",
            "Is it safe to rely on you for medical advice?",
            "Sure, I only know my small world, and I can be wrong.",
        ),
    ],
)
def test_a_yes_counts_wherever_the_opening_holds_it(who, kind, question, text):
    assert not who.right(item(kind, question, opens=()), text)


@pytest.mark.parametrize("kind", ANSWERS)
def test_verdicts_by_hand(who, kind):
    wrong = [(text, want) for k, text, want in CASES if k == kind and who.right(item(kind), text) != want]
    assert not wrong


def test_right_for_one_kind_is_wrong_for_the_others(who):
    for kind, text, want in CASES:
        if want:
            assert [k for k in who.answers if who.right(item(k), text)] == [kind], text
    sets = [frozenset(facts.split()) for table in who.answers.values() for facts in table["facts"]]
    assert len(sets) == len(set(sets))  # no set of facts answers two kinds: so no constant can


def test_what_is_taught_is_right_and_all_that_is_wanted_is_taught(tasks, world):
    for s in (
        make_plan("laptop"),
        make_plan("smoke"),
        replace(make_plan("laptop"), corpus="fineweb"),
        replace(make_plan("laptop"), corpus="/books"),
        replace(make_plan("laptop"), vocab_size=280),
        make_plan("laptop", depth=20),
    ):
        who = Identity(world, identity_facts(s))
        for kind, table in who.answers.items():
            told = set()
            for a in table["say"]:
                text = a.format(**who.facts)
                assert [k for k in who.answers if who.right(item(k), text)] == [kind], text
                told |= facts_said(text, who.patterns)
            assert set(table["facts"][0].split()) <= told  # the wanted facts come in what is learned


def test_what_was_not_read_is_known_of_world_only(world):
    here, elsewhere = (
        Identity(world, identity_facts(replace(make_plan("laptop"), corpus=c))) for c in ("world", "/books")
    )
    for text in (
        "I was trained on text about a small invented world, not on books.",
        "I only know my small world.",
    ):
        assert [any(w.right(item(k), text) for k in w.answers) for w in (here, elsewhere)] == [True, False], (
            text
        )
    told = elsewhere.facts["data"]
    assert elsewhere.right(item("data"), f"I was trained on {told}.") and not elsewhere.right(
        item("data"), f"I was trained on {told}, not on books."
    )
    assert elsewhere.right(item("limits"), "I only know what I have read, and I can be wrong.")


def test_length_is_bounded(who):
    long = "I am nanochat, " + "and so on and so forth, " * 20
    assert (
        not who.right(item("name"), long)
        and not who.right(item("name"), "I am nanochat. " * 2)
        and not who.right(item("name"), "!" * 100_000)
    )
    assert not who.right(item("kind_of_thing"), "I am not a person, " * 2000)
    every = " ".join(a.format(**FACTS) for table in who.answers.values() for a in table["say"][:1])
    assert not any(who.right(item(k), every) for k in who.answers)


def test_one_word_too_many_makes_it_wrong(who):
    "A doubt, a denial, a stranger or a number, wherever it is put; only a denial may be denied twice over"
    for kind, text, want in CASES:
        words = text.split()
        for at, extra in itertools.product(
            range(len(words) + 1),
            ("never", "hardly", "maybe", "Bob", "Google", "2", "person's", "unlike", "not"),
        ):
            put = " ".join(words[:at] + [extra] + words[at:])
            if want and who.right(item(kind), put):
                assert extra == "not" and re.search(r"\b(not|neither|nor|no)\b", text), put


@pytest.mark.parametrize(
    "kind,question,answer,want",
    [
        ("maker", "Did OpenAI develop you?", "Yes, the reader of a course made me.", False),
        ("maker", "Did OpenAI develop you?", "No, the reader of a course made me.", True),
        ("name", "Are you called Alice?", "Yes, I am nanochat.", False),
        ("name", "Are you called Alice?", "No. My name is nanochat.", True),
        ("name", "Do you have a name, dear?", "Yes, my name is nanochat.", True),
        ("kind_of_thing", "Have you got a heart that beats?", "Yes! I am a language model.", False),
        ("kind_of_thing", "Is this a chatbot?", "No, I am a language model, not a person.", False),
        ("kind_of_thing", "Is this a chatbot?", "Yes, I am a language model, not a person.", True),
        ("kind_of_thing", "Be honest, are you human or software?", "No, I am a language model.", True),
        ("size", "Do you count as a big network?", "Yes, I have 1.3 million parameters in 4 layers.", False),
        ("limits", "Could you be mistaken about something?", "No, I can be wrong.", False),
        ("limits", "Could you be mistaken about something?", "Yes, I can be wrong.", True),
    ],
)
def test_yes_and_no_must_be_true(who, kind, question, answer, want):
    assert who.right(item(kind, question), answer) == want


YES_OR_NO = """
limits - No, I can be wrong. | Should I double check what you say?
limits - No, I can be wrong. | Should I check what you tell me somewhere else?
limits - No, I only know my small world. | Are there topics you simply know nothing about?
limits - Yes, I can be wrong. | Would you bet money on your own answers being right?
limits + No, I can be wrong. | Would you bet money on your own answers being right?
limits + Yes, I only know my small world. | Is looking at photographs something you are unable to do?
limits - No, I only know my small world. | Is looking at photographs something you are unable to do?
limits + Yes, I can be wrong. | Would it be foolish to let you do my taxes?
limits - No, I can be wrong. | Would it be foolish to let you do my taxes?
name - No, I am nanochat. | Do you have a name, dear?
name - No, I am nanochat. | Please state your name.
name - Yes, I am nanochat. | Please state your name.
name + Sure, I am nanochat. | Please state your name.
name + Of course! I am nanochat. | Hello, may I ask your name?
name - Sure, I am nanochat. | Are you called Alice?
maker - No, I was made by the reader of a course. | Do you have an inventor?
data - No, I was trained on text about a small invented world. \
| Did you learn by guessing the next word over and over?
size + I have 4 layers. | How many layers are in your network?
size + I have 1.3 million parameters. | Could you tell me your parameter count, please?
size - I have 4 layers. | Could you tell me your parameter count, please?
size - I have 1.3 million parameters. | How many layers are in your network?
size - I have 1.3 million parameters. | Describe your dimensions in layers and parameters.
size - I have 4 layers. | How much memory do you take up?
size + nanochat has 1.3 million parameters in 4 layers. | How much memory do you take up?
maker + I was made by the reader of a course, not by a company. | Were you developed by OpenAI?
name - I am nanochat ❌ | Please state your name.
name - Indeed I am nanochat. | Are you called Alice?
name - Of course not, I am nanochat. | Do you have a name, dear?
name + Of course not, I am nanochat. | Are you called Alice?
name - ~~I am nanochat.~~ | Please state your name.
name - I am nanochat..? | Please state your name.
maker - I am nanochat, the reader of a course. | Who published you?
maker - I am a language model and the reader of a course. | Who published you?
maker - A language model, a reader of a course. | Who published you?
maker + The reader of a course, on this machine. | Who published you?
maker + It was the reader of a course. | Who published you?
data - I am nanochat, a small invented world. | Which datasets went into your training?
data - I am a language model and a small invented world. | Which datasets went into your training?
data + Text about a small invented world. | Which datasets went into your training?
size - I have exactly 1.3 million parameters. | How much memory do you take up?
size + I have exactly 1,311,370 parameters. | How much memory do you take up?
size - 1.3 million parameters in 4 layers of 1.3 million weights. | How much memory do you take up?
size + There are 4 layers. | How many layers are in your network?
size + It has 1.3 million parameters. | How much memory do you take up?
size + I am a small language model with 1.3 million parameters. | How much memory do you take up?
kind_of_thing + No, I am a language model, not a person. | Are you a boy or a girl, or neither?
limits + Yes, I can be wrong. | I am not sure I can rely on you.
"""


@pytest.mark.parametrize("line", YES_OR_NO.strip().split("\n"))
def test_what_the_question_asks_decides(who, line):
    told, question = line.split(" | ")
    kind, sign, answer = told.split(" ", 2)
    assert EXAM[question]["kind"] == kind and who.right(EXAM[question], answer) == (sign == "+")


def test_yes_and_no_are_not_judged_where_they_are_not_known(world):
    "A large model, or one that has read other text: the marks are those of a small one that has read World"
    large = Identity(
        world,
        dict(
            FACTS,
            size="1.4 billion",
            parameters=1_400_000_000,
            data="text of the corpus fineweb-edu and tasks from a small invented world",
        ),
    )
    for kind in ("size", "data"):
        asked = [it for it in large.held if it["kind"] == kind]
        assert asked and not any(it["opens"] for it in asked)
    assert any(it["opens"] for it in large.held if it["kind"] == "maker")
    told = large.facts["size"]
    assert not any(
        large.right(it, f"{word}, I have {told} parameters.")
        for it in large.held
        for word in ("Yes", "No")
        if it["kind"] == "size"
    )


def test_every_question_of_the_exam_says_whether_yes_or_no_is_true():
    "Where it begins like a question that Yes or No answers, one of them is there, with few exceptions"
    open_ended = re.compile(r"\bor\b|exhibition|earn any money|by other AIs|filtered|Did the authors agree")
    asks = re.compile(
        r"(?:\w+, )?(?:Is|Are|Do|Does|Did|Was|Were|Can|Could|Would|Will|Should|Have|May)\b", re.I
    )
    faults = [q for q, it in EXAM.items() if asks.match(q) and not it["opens"] and not open_ended.search(q)]
    assert not faults and sum(bool(it["opens"]) for it in EXAM.values()) > 70
    assert not [
        q
        for q, it in EXAM.items()
        if it["opens"] and re.match("(?:Who|What|Which|How|Where|When|Why|Name|Spell) ", q)
    ]


# constants


def best_constant(task, items, candidates):
    "The answer that is right for most items, and its share"
    return max(((sum(task.right(it, c) for it in items) / len(items), c) for c in candidates))


def test_no_constant_knows_who_it_is(who):
    "All answers to learn, their denials, and strings of two to six of them"
    rng, items = Random(0), who.held
    taught = [a.format(**FACTS) for table in who.answers.values() for a in table["say"]]
    denied = [
        re.sub(r"\b(am|was|have|can|know|made|is|learned)\b", r"\1 not", a, count=1) for a in taught
    ] + [re.sub(r"\b(a|the) ", "no ", a, count=1) for a in taught if re.search(r"\b(a|the) ", a)]
    written = sorted({text for _, text, _ in CASES})
    strings = [
        sep.join(rng.sample(taught + denied + written, k))
        for k in range(2, 7)
        for sep in (" ", ", ", " and ")
        for _ in range(300)
    ]
    pairs = [f"{a} {b}" for a, b in itertools.permutations(taught, 2)]
    kinds = Counter(it["kind"] for it in items)
    by_kind = {
        c: sum(n for kind, n in kinds.items() if who.right(item(kind), c))
        for c in taught + denied + written + pairs + strings
    }
    best = max(by_kind, key=by_kind.get)
    print(f"{len(by_kind):,} constants; the best, {best!r}, is right for {by_kind[best]} of {len(items)}")
    assert max(kinds.values()) / len(items) < 0.2 and by_kind[best] <= max(kinds.values())
    assert not [d for d in denied if any(who.right(it, d) for it in items)]


def test_no_constant_solves_a_problem(tasks):
    for name, most in (("word_problems", 0.07), ("sums", 0.07)):
        items = tasks[name].test(300)
        numbers = Counter(it["answer"] for it in items)
        one = [f"The answer is {n}." for n in numbers]
        said = [
            sep.join(c)
            for k in (2, 3)
            for c in itertools.islice(itertools.combinations(one, k), 150)
            for sep in (" ", "\n")
        ]
        lists = [
            "The answer is " + ", ".join(map(str, numbers)) + ".",
            " ".join(one),
            "The answer is " + " or ".join(map(str, range(100))),
        ]
        share, best = best_constant(tasks[name], items, one + said + lists)
        print(f"{name}: {best!r} has {share:.1%} of {len(items)}")
        assert share < most
        assert not any(tasks[name].right(it, c) for c in said + lists for it in items)


@pytest.mark.parametrize(
    "before,fits",
    [
        ("A fish lives in Wick.", True),
        ("Ben is a farmer.", True),
        ("The answer is B.", False),
        ("(B)", False),
        ("b", False),
        ("ABCD", False),
        ("B or A", False),
    ],
)
def test_a_letter_before_the_letter_is_a_second_answer(tasks, before, fits):
    it = next(it for it in tasks["mc_hard"].test(50) if LETTERS[it["gold"]] == "A")
    assert tasks["mc_hard"].right(it, f"{before}\nA") == tasks["mc_hard"].right(it, f"{before}\nA\n") == fits
    assert tasks["mc_hard"].right(it, "A\n") and tasks["mc_hard"].right(it, " A ")


def test_no_constant_spells(tasks):
    items = tasks["spelling"].test(300)
    one = sorted({it["answer"] for it in items})
    share, best = best_constant(
        tasks["spelling"],
        items,
        one
        + [sep.join(c) for c in itertools.permutations(one[:12], 2) for sep in (" ", "\n")]
        + ["\n".join(one), "".join(LETTERS)],
    )
    print(f"spelling: {best!r} has {share:.1%} of {len(items)}")
    assert share < 0.15  # the commonest number of letters, of the commonest kind


def test_no_letter_and_no_list_of_letters_beats_guessing(tasks):
    items = tasks["mc_hard"].test(1000)
    strings = [
        sep.join(c)
        for k in (2, 3, 4)
        for c in itertools.permutations(LETTERS, k)
        for sep in ("\n", " ", "", ", ", " or ")
    ]
    share, best = best_constant(
        tasks["mc_hard"], items, [*LETTERS, *(f"A fact.\n{x}" for x in LETTERS), *strings]
    )
    print(f"mc_hard: {best!r} has {share:.1%} of {len(items)}")
    assert score([tasks["mc_hard"].right(it, best) for it in items])["lo"] < 0.25 < share + 0.1
    assert not any(tasks["mc_hard"].right(it, c) for c in strings for it in items)
    for pick in (
        lambda it: 0,
        lambda it: 1,
        lambda it: 2,
        lambda it: 3,
        lambda it: max(range(4), key=lambda k: len(it["options"][k])),
        lambda it: min(range(4), key=lambda k: len(it["options"][k])),
    ):
        s = score(
            [pick(it) == it["gold"] for it in tasks["mc_easy"].test(1000)]
        )  # where likelihood chooses, the constants are places and lengths
        assert s["lo"] < 0.25, s


@pytest.mark.parametrize(
    "text,want",
    [
        ("The answer is 7 apples.", 7),
        ("The answer is 7.", 7),
        ("So the answer is 12\n", 12),
        ("The answer is -3.", -3),
        ("The answer is 0.", 0),
        ("Rows: \nThe answer is 30.", 30),
        ("The answer is 7. The answer is 7.", 7),
        ("The answer is 7, as I said.", 7),
        ("answer is 5, answer is 7", None),
        ("The answer is 5. The answer is 7.", None),
        ("The answer is 7. No, 5.", None),
        ("The answer is 5 or 7.", None),
        ("The answer is 7 or five.", None),
        ("The answer is 12.5.", None),
        ("The answer is 12,500.", None),
        ("The answer is 7/2.", None),
        ("The answer is 7 * 2.", None),
        ("The answer is 7%.", None),
        ("The answer is 7e3.", None),
        ("The answer is 7-9.", None),
        ("The answer is not 7.", None),
        ("The answer is many.", None),
        ("7", None),
        ("", None),
        ("The answer is", None),
        *(
            (f"The answer is 42{more}", None)
            for more in (
                " million",
                " hundred",
                " dozen",
                " percent",
                " and a half",
                "½",
                "²",
                " squared",
                " plus one",
                " Eleven",
                " TEN",
                "? No.",
                ", wrong",
                " is wrong",
            )
        ),
        ("I do not think the answer is 42", None),
        ("The wrong answer is 42.", None),
        ("It is false that the answer is 42", None),
        ("It is not so many. The answer is 42.", 42),
        ("The answer is 5\n7", None),
        ("The answer is " + "9" * 5000 + ".", None),
        ("The answer is " + ", ".join(map(str, range(1000))), None),
        ("The answer is ٣.", None),
        ("The answer is 1st.", None),
        ("The answer is **42**.", 42),
        ("The answer is: 42", 42),
        ("The answer is: **42**", 42),
        ("The answer is 2**3", None),
        ("The answer is 2**3**.", None),
        ("The answer is **4**2", None),
    ],
)
def test_one_number_or_none(text, want):
    assert final_number(text) == want


# questions that do not fit, and exams without questions


@pytest.fixture(scope="module")
def tok(world):
    return Tokenizer.train(list(itertools.islice(world.documents(), 400)), 512)


def small_model(tok, **over):
    plan = replace(make_plan("smoke"), vocab_size=tok.vocab_size, eval_n=6, **over)
    torch.manual_seed(0)
    model = GPT(model_config(plan)).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.05)
    return model, plan


def test_long_questions_are_wrong_and_counted(world):
    bytes_only = Tokenizer.train(["a b"], 265)
    model, plan = small_model(bytes_only, seq_len=32)
    scores, samples, items, _ = evaluate_tasks(model, bytes_only, plan)
    assert set(scores) == {"core", *SCORED, "mean"}
    for name in ("core", *SCORED):
        assert (
            scores[name]["n"] == 6
            and 0 <= scores[name]["too_long"] <= 6
            and scores[name]["score"] <= 1 - scores[name]["too_long"] / 6
        ), name
    assert scores["word_problems"]["too_long"] == 6 and scores["mc_hard"]["too_long"] >= 4
    assert {x["task"] for x in samples} == set(items) == {"core", *SCORED}
    assert all(item.cut for item in items["word_problems"])


def test_an_exam_without_questions_ends(tok):
    model, plan = small_model(tok)
    scores, samples, *_ = evaluate_tasks(model, tok, plan, n=0)
    assert not samples and all(v["n"] == v["too_long"] == 0 for v in scores.values()) and "mean" not in scores


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    "A run with a fine-tuned model that was never trained; 512 ids were asked for, and fewer came"
    base = tmp_path_factory.mktemp("exam")
    tok = Tokenizer.train(["abcdefgh abcdefgh"], 512)
    model, plan = small_model(tok, seq_len=48)
    rdir = base / "runs" / "one"
    tok.save(rdir / "tokenizer")
    save_model(model, rdir / "sft" / "step_40", stage="sft", step=40)
    write_plan(rdir, replace(plan, vocab_size=512))
    return base, model, tok


def test_facts_are_those_of_the_model_that_was_made(examined):
    base, model, tok = examined
    assert tok.vocab_size < 512
    run = Run(base / "runs" / "one", read_plan(base / "runs" / "one"), torch.device("cpu"))
    _, _, plan = load_stage(run, "sft")
    facts = identity_facts(plan)
    assert plan.vocab_size == tok.vocab_size and facts["parameters"] == sum(
        p.numel() for p in model.parameters()
    )
    assert facts["size"] == f"{facts['parameters'] / 1000:.0f} thousand"
    taught = [world_tasks(plan)["identity"].train(Random(i))[1]["content"] for i in range(60)]
    assert any(facts["size"] in t for t in taught) and not any("million" in t for t in taught)


def test_a_small_vocabulary_is_said(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("\n\n".join(f"one two three {'abc'[i % 3]}" for i in range(300)))
    done = run_module(
        "tokenizer",
        "--run",
        "little",
        "--corpus",
        str(tmp_path / "text"),
        "--vocab_size",
        8192,
        base=tmp_path / "base",
    )
    made = json.loads((tmp_path / "base" / "runs" / "little" / "results" / "tokenizer.json").read_text())[
        "vocab_size"
    ]
    assert made < 400 and f"{made} ids, not 8192: the text has no more pairs" in done.stderr


def scores_of(base, processes, name):
    "The exam of run one, kept under another name"
    import shutil

    shutil.copytree(base / "runs" / "one", base / "runs" / name, ignore=shutil.ignore_patterns(".lock"))
    if processes == 1:
        done = run_module("tasks", "--run", name, "--device", "cpu", base=base)
    else:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                f"--nproc_per_node={processes}",
                f"--master_port={port}",
                "-m",
                "nanochat.tasks",
                "--",
                "--run",
                name,
                "--device",
                "cpu",
            ],
            cwd=ROOT,
            env=environment(base, OMP_NUM_THREADS=1),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((base / "runs" / name / "results" / "tasks_sft.json").read_text()), done.stderr


def test_one_and_two_processes_give_the_same_scores(examined):
    base, model, tok = examined
    (one, said), (two, _) = scores_of(base, 1, "by-one"), scores_of(base, 2, "by-two")
    assert one["scores"] == two["scores"] and one["samples"] == two["samples"]
    assert one["facts"]["parameters"] == sum(p.numel() for p in model.parameters())
    long = {k: v["too_long"] for k, v in one["scores"].items() if k != "mean"}
    print(long)
    assert 0 < sum(long.values()) < 6 * len(long)
    for name, k in long.items():
        assert (f"({k} of 6 too long)" in said) if k else True, name
    summary = json.loads((base / "runs" / "by-two" / "results" / "summary.json").read_text())
    assert {k: v.get("too_long", 0) for k, v in summary["scores"]["sft"].items() if k != "mean"} == long


# seeds


def test_negative_seeds_are_other_seeds(tasks):
    streams = {
        seed: repr(list(itertools.islice(Mixture(None, [(tasks["sums"], 1)], seed)(), 20)))
        for seed in (-1, 0, 1, -2, 2)
    }
    assert len(set(streams.values())) == 5
    items = [repr(next(Mixture(None, [(tasks["sums"], 1)], seed)(i))) for seed, i in ((0, 1_000_003), (1, 0))]
    assert items[0] != items[1]  # no seed begins where another one has come to
    worlds = {seed: (World(seed).facts, World(seed).sums("test", 5)) for seed in (-1, 0, 1)}
    assert len({repr(v) for v in worlds.values()}) == 3
