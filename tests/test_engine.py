"The engine: what it draws depends on the seed and the question's number alone, and it outlives a failure"

import random
import pytest, torch
from nanochat import engine
from nanochat.engine import Engine, Row, RowCache, by_length
from nanochat.gpt import GPT, GPTConfig, MODERN
from nanochat.runs import UserError


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    "Small models are no faster on two threads, and on a busy machine many times slower"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lively(**kw):
    "A small model of random weights everywhere: its answers depend on all that it reads"
    torch.manual_seed(0)
    m = GPT(
        GPTConfig(**{**dict(vocab_size=97, seq_len=64, n_layer=2, n_head=2, n_kv_head=1, n_embd=32), **kw})
    )
    for p in m.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return m.eval()


PROMPTS = [[1, 2, 3], [9], [4, 5], [1, 2, 3], [7] * 9, [8, 9]]


def test_processes_that_share_the_questions_draw_what_one_would():
    e, kw = Engine(lively(), max_rows=5), dict(num_samples=3, max_tokens=9, temperature=1.0, seed=-7)
    want = [r.ids for r in e.generate(PROMPTS, **kw)]
    for size in (1, 2, 3, 5):
        shares = [e.generate(PROMPTS[i : i + size], first=i, **kw) for i in range(0, len(PROMPTS), size)]
        assert [r.ids for rows in shares for r in rows] == want, size
    assert len({tuple(ids) for ids in want}) > 15


def test_other_seeds_other_answers_whatever_their_sign():
    "Python's Random(-1) is Random(1)"
    e = Engine(lively())
    for draw in (
        lambda seed: [i for i, _ in e.stream([1, 2], 20, 1.0, seed)],
        lambda seed: e.generate([[1, 2]], max_tokens=20, temperature=1.0, seed=seed)[0].ids,
    ):
        said = {seed: tuple(draw(seed)) for seed in (-2, -1, 0, 1, 2, 2**63, 2**63 - 1, -(2**31))}
        assert len(set(said.values())) == len(said), said
        assert tuple(draw(-1)) == said[-1]


# --- how likely each token was ---
def interrupter():
    "A tool that speaks two ids after every third of the model's own"
    seen = []

    def hook(i):
        seen.append(i)
        return [90, 91] if len(seen) % 3 == 0 else None

    return hook


def in_one_pass(model, row):
    "Log-probabilities of an answer's ids, read with their prompt in one go"
    with torch.inference_mode():
        logp_TV = model(torch.tensor([row.prompt + row.ids]))[0].log_softmax(-1)
    return [logp_TV[len(row.prompt) - 1 + k, i].item() for k, i in enumerate(row.ids)]


HEATS = [
    dict(),
    dict(temperature=1.0),
    dict(temperature=0.5, top_k=20),
    dict(temperature=1.5, top_p=0.8),
]


@pytest.mark.parametrize("hook", [None, interrupter])
@pytest.mark.parametrize("heat", HEATS, ids=str)
@pytest.mark.parametrize("switches", [{}, MODERN], ids=["classic", "modern"])
def test_noted_log_probabilities_are_those_of_one_pass(switches, heat, hook):
    "Equal prompts read once, rows that end early and make room for others, ids that a tool forces in"
    m = lively(**switches)
    e = Engine(m, max_rows=5, prefill_tokens=8)
    rows = e.generate(
        PROMPTS, 3, 14, seed=4, stop_ids=range(0, 97, 9), hook=hook, note_logp=True, **heat
    )
    assert {row.reason for row in rows} == {"stop", "length"} or not heat
    assert all(all(row.sampled) for row in rows) == (hook is None)
    for row in rows:
        assert [logp is not None for logp in row.logp] == row.sampled
        for noted, whole in zip(row.logp, in_one_pass(m, row)):
            assert noted is None or noted == pytest.approx(whole, abs=1e-4)


def test_notes_cost_nothing_where_nobody_asks_and_change_no_answer(monkeypatch):
    e = Engine(lively(), max_rows=4)

    def answered(asks):
        rows = [
            e.add(Row(p, 10, 1.0, seed=k, hook=interrupter(), note_logp=k in asks))
            for k, p in enumerate(PROMPTS)
        ]
        while e.step():
            pass
        return rows

    some = answered({1, 4})
    for k, row in enumerate(some):
        assert [logp is not None for logp in row.logp] == [own and k in (1, 4) for own in row.sampled]
    monkeypatch.setattr(engine, "token_logp", None)
    assert [row.ids for row in answered(())] == [row.ids for row in some]


# --- a failure stays where it happened ---
def answers(engine, n=6, hooks={}):
    "Rows of very different settings, written together; `hooks` gives some of them a hook"
    rows = [
        engine.add(Row(PROMPTS[i], 12 + i, (0.0, 1.0, 0.7)[i % 3], seed=i, hook=hooks.get(i)))
        for i in range(n)
    ]
    while engine.step():
        pass
    return rows


def raises_at(k, error):
    seen = []

    def hook(i):
        seen.append(i)
        if len(seen) == k:
            raise error

    return hook


def test_a_hooks_fault_ends_its_row_and_no_other():
    m = lively()
    want = answers(Engine(m, max_rows=4))
    faults = dict(
        raises=lambda: raises_at(3, ValueError("broken tool")),
        leaves=lambda: raises_at(2, SystemExit(3)),
        memory=lambda: raises_at(1, MemoryError()),
        far=lambda: lambda i: [10**9],
        below=lambda: lambda i: [-1],
        text=lambda: lambda i: "ab",
        number=lambda: lambda i: 7,
        floats=lambda: lambda i: [1.5],
    )
    for name, make in faults.items():
        for at in (0, 2, 5):
            got = answers(Engine(m, max_rows=4), hooks={at: make()})
            assert (
                got[at].reason == "error"
                and isinstance(got[at].error, (Exception, SystemExit))
                and 1 <= len(got[at].ids) <= 3
            ), name
            for i in set(range(6)) - {at}:
                assert (got[i].ids, got[i].reason, got[i].error) == (want[i].ids, want[i].reason, None), (
                    name,
                    at,
                    i,
                )
            assert got[at].ids == want[at].ids[: len(got[at].ids)]


def test_generate_says_that_hooks_failed_and_stream_raises(capsys):
    e, made = (
        Engine(lively()),
        iter((lambda i: None, raises_at(2, ValueError("broken tool")), lambda i: None)),
    )
    rows = e.generate([[1], [2], [3]], max_tokens=5, hook=lambda: next(made))
    assert [r.reason for r in rows] == ["length", "error", "length"]
    assert (
        "1 of 3 answers" in (err := capsys.readouterr().err) and "broken tool" in err and err.count("\n") == 1
    )
    with pytest.raises(ValueError, match="broken tool"):
        list(e.stream([1], 5, hook=lambda: raises_at(2, ValueError("broken tool"))))
    assert not e.rows and len(list(e.stream([1], 5))) == 5


class Failing:
    "Makes the model fail at chosen passes"

    def __init__(self, model, monkeypatch, error, at):
        self.calls, forward = 0, type(model).forward

        def failing(m, *args, **kw):
            self.calls += 1
            if self.calls in at:
                raise error
            return forward(m, *args, **kw)

        monkeypatch.setattr(type(model), "forward", failing)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), RuntimeError("bad luck"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("first", [1, 2, 4])
def test_the_engine_goes_on_after_two_failed_steps(monkeypatch, error, first):
    e = Engine(lively(), max_rows=4)
    want = [(r.ids, r.reason) for r in answers(e)]
    Failing(e.model, monkeypatch, error, (first, first + 1))
    with pytest.raises(type(error)):
        answers(e)
    assert not e.rows and not e.waiting and bytes_of(e.cache) == 0
    e.add(Row([1], 3))
    with pytest.raises(type(error)):
        e.step()  # and the very next step fails as well
    assert [(r.ids, r.reason) for r in answers(e)] == want


def test_memory_that_is_refused_while_the_cache_grows_leaves_an_engine_that_works(monkeypatch):
    e = Engine(lively(), max_rows=4)
    want = [(r.ids, r.reason) for r in answers(e)]
    resize, calls = RowCache._resize, []

    def failing(self, rows, length):
        calls.append(1)
        if len(calls) in (3, 6):
            self.k = self.k[:, :0]
            raise torch.OutOfMemoryError("half done")
        return resize(self, rows, length)

    monkeypatch.setattr(RowCache, "_resize", failing)
    with pytest.raises(torch.OutOfMemoryError):
        answers(e)
    with pytest.raises(torch.OutOfMemoryError):
        answers(e)
    assert [(r.ids, r.reason) for r in answers(e)] == want


def test_rows_that_could_hurt_others_are_refused():
    e, inf = Engine(lively()), float("inf")
    for bad in (
        dict(prompt=[97]),
        dict(prompt=[-1]),
        dict(prompt=[]),
        dict(prompt=[1] * 128),
        dict(prompt=[1.5]),
        dict(prompt=["1"]),
        dict(temperature=float("nan")),
        dict(temperature=inf),
    ):
        with pytest.raises(UserError):
            e.add(Row(**{"prompt": [1], **bad}))
    assert not e.waiting
    rows = [e.add(Row([1], 5, 1.0, top_k=k, seed=10**40)) for k in (10**30, -1, 0)]
    while e.step():
        pass
    assert len(rows[0].ids) == 5 and rows[0].ids == rows[1].ids == rows[2].ids


# --- nobody is starved ---
@pytest.mark.parametrize(
    "max_rows,clients,length", [(8, 4, 3), (8, 16, 3), (8, 16, 60), (2, 16, 40), (64, 16, 3), (64, 100, 20)]
)
def test_one_token_requests_without_end_do_not_stop_an_answer(max_rows, clients, length):
    "Each client asks for one token, and again as soon as it has it"
    e = Engine(lively(), max_rows=max_rows, prefill_tokens=64)
    long = e.add(Row([5, 6], 47))
    asked = [e.add(Row([c % 97] * length, 1)) for c in range(clients)]
    steps = served = 0
    while not long.done:
        e.step()
        steps += 1
        assert steps < 100, f"{len(long.ids)} of 47 tokens after 100 steps"
        for c, row in enumerate(asked):
            if row.done:
                served += 1
                asked[c] = e.add(Row([c % 97] * length, 1))
    assert steps == 47 and served >= 46  # a token in every step, and the others are served as well
    assert max(map(len, (r.ids for r in asked))) <= 1


def test_a_newcomer_waits_for_a_few_steps_at_most_where_places_are_free():
    "64 places, 60 of them taken by long answers: eight newcomers need not wait until eight places are free"
    e = Engine(lively(), max_rows=64)
    for i in range(60):
        e.add(Row([i], 100, seed=i))
    e.step()
    new = [e.add(Row([1, i], 5)) for i in range(8)]
    for _ in range(e.patience):
        e.step()
    assert sum(bool(r.ids) for r in new) == 4  # as many as there are places


def test_a_step_reads_no_more_of_prompts_than_its_budget(monkeypatch):
    e, read = Engine(lively(), max_rows=32, prefill_tokens=100), []
    e.add(Row([1], 100))
    e.step()
    before = Engine._read
    monkeypatch.setattr(
        Engine,
        "_read",
        lambda self, prompts, asking: (read.append(sum(map(len, prompts))), before(self, prompts, asking))[1],
    )
    for i, n in enumerate([30] * 7 + [120, 5, 5]):
        e.add(Row([i] * n, 5))
    for seed in (1, 2):
        e.add(Row([9] * 70, 5, seed=seed))
    seen = []
    while e.waiting:
        read.clear()
        e.step()
        seen.append(sum(read))
    assert seen == [90, 90, 30, 120, 80]  # one prompt at least, however long; equal ones are read once


def test_prompts_are_read_with_those_of_their_length():
    short, long = [(i,) for i in range(63)], tuple([1] * 4000)
    groups = by_length([*short, long])
    assert sum(len(g) * len(g[0]) for g in groups) <= 4000 + 63 * 33
    draw = random.Random(0)
    for _ in range(200):
        prompts = [
            tuple([i] * draw.choice((draw.randint(1, 40), draw.randint(1, 4000))))
            for i in range(draw.randint(1, 60))
        ]
        groups = by_length(prompts)
        assert sorted(p for g in groups for p in g) == sorted(prompts)
        for g in groups:
            assert all(len(g[0]) <= 2 * len(p) + 32 for p in g) and (
                len(g) == 1 or len(g) * len(g[0]) <= 16384
            )


# --- memory ---
def bytes_of(cache):
    return sum(t.numel() * t.element_size() for t in (cache.k, cache.v))


def test_the_cache_never_has_room_for_more_than_is_possible():
    m = lively(seq_len=64)
    e, token = Engine(m, max_rows=40, max_len=100), 2 * 2 * 1 * 16 * 4  # k and v, layers, heads, dims, bytes
    rows = [e.add(Row([i] * (1 + i), 90, seed=i)) for i in range(40)]
    most = 0
    while e.step():
        most = max(most, bytes_of(e.cache))
        assert e.cache.k.shape[1] <= 40 and e.cache.k.shape[3] <= 100 and e.cache.k.shape == e.cache.v.shape
    assert all(r.done for r in rows) and 0 < most <= 40 * 100 * token
    assert bytes_of(e.cache) == 0  # the last one puts out the light


def test_the_cache_shrinks_after_a_crowd():
    e = Engine(lively(seq_len=512), max_rows=64)
    lone = e.add(Row([1], 300))
    want = Engine(lively(seq_len=512)).generate([[1]], max_tokens=300)[0].ids
    e.step()
    for i in range(60):
        e.add(Row([i] * 100, 20, seed=i))
    crowded = 0
    while len(lone.ids) < 60:
        e.step()
        crowded = max(crowded, bytes_of(e.cache))
    while len(lone.ids) < 60 + 2 * e.window + 2:
        e.step()
    assert e.cache.k.shape[1] == 1 and bytes_of(e.cache) < crowded / 20
    while e.step():
        assert e.cache.k.shape[3] <= 2 * max(e.cache.max_len, 100)
    assert lone.ids == want  # and nothing was lost on the way


def test_a_cancelled_crowd_leaves_no_memory_behind():
    e = Engine(lively(), max_rows=64)
    rows = [e.add(Row([i], 50)) for i in range(64)]
    for _ in range(5):
        e.step()
    assert bytes_of(e.cache) > 0
    for r in rows:
        e.cancel(r)
    assert bytes_of(e.cache) == 0


def test_logits_that_are_no_numbers_end_their_row_and_not_the_engine(monkeypatch):
    "A draw from NaN would be an id that does not exist, and the next step would fail for everybody"
    e, forward, calls = Engine(lively(), max_rows=4), GPT.forward, []
    want = [r.ids for r in answers(e, 3)]

    def spoiled(m, *args, **kw):
        out = forward(m, *args, **kw)
        calls.append(1)
        if len(calls) == 5:
            out[1] = float("nan")
        return out

    monkeypatch.setattr(GPT, "forward", spoiled)
    rows = [e.add(Row(PROMPTS[i], 12 + i, 1.0, seed=i, note_logp=True)) for i in range(3)]
    while e.step():
        pass
    assert sorted(r.reason for r in rows) == ["error", "length", "length"]
    bad = next(r for r in rows if r.error)
    assert "not finite" in str(bad.error)
    monkeypatch.setattr(GPT, "forward", forward)
    alone = Engine(lively()).generate([[1]], max_tokens=5)[0].ids
    assert e.generate([[1]], max_tokens=5)[0].ids == alone and [r.ids for r in answers(e, 3)] == want
