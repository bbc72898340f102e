"The rows of bench/rows.py: what a continuation opens with, and that no token is learned twice"

import importlib.util, random
from pathlib import Path
import pytest, torch

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("rows", ROOT / "bench" / "rows.py")
rows = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rows)
from nanochat.loader import Lane, to_batch

BOS, SIZE = 0, 33


def documents(n=60, seed=0):
    "Every token of all of them is another number, so that a row says where it comes from"
    rng, last = random.Random(seed), 0
    out = []
    for _ in range(n):
        length = rng.choice([1, 5, 20, 31, 32, 33, 70, 200])
        out.append(list(range(last + 1, last + 1 + length)))
        last += length
    return out


def packed(context, size=SIZE):
    lane = rows.Continuing(BOS, size, context)
    for ids in documents():
        lane.put(ids)
    made = []
    while len(lane):
        made.append(lane.row())
    return made


@pytest.mark.parametrize("context", [0, 1, 8])
def test_each_token_is_learned_once_after_the_tokens_before_it(context):
    "And only the opening of a document, with a context of nothing also a continuation, stands behind BOS"
    begins, total = {d[0] for d in documents()}, sum(map(len, documents()))
    learned, full, fewer = [], 0, 0
    for row in packed(context):
        ids, targets = to_batch([row], SIZE)
        for i, target in enumerate(targets[0].tolist()):
            if target <= 0:
                continue
            learned.append(target)
            before = ids[0, i].item()
            if context == 0:
                assert before in (BOS, target - 1)
            else:
                assert before == (BOS if target in begins else target - 1), row
            if context and row[i] < 0:  # the first one that is learned again
                first = ids[0, max(0, i - context + 1) : i + 1].tolist()
                as_it_was = first == list(range(target - context, target))
                full, fewer = full + as_it_was, fewer + (not as_it_was)
    assert fewer <= 0.3 * (full + fewer)  # a short piece that was cut off is all there is to read
    assert sorted(learned) == list(range(1, total + 1))


def test_with_bos_the_rows_are_those_of_the_course():
    lane = Lane(BOS, SIZE)
    for ids in documents():
        lane.put(ids)
    want = []
    while len(lane):
        want.append(lane.row())
    assert packed(0) == want


def test_a_context_leaves_less_room_for_text():
    "And hardly more than its length: a row of 32 with 8 read again holds 25 new ones"
    plain, with_context = (sum(map(len, packed(context))) for context in (0, 8))
    assert plain < with_context < 1.5 * plain


def test_paragraphs_lose_no_words():
    page = "\n\n".join(f"{'word ' * n}end {n}." for n in (3, 40, 100, 2, 90, 5, 200))
    found = rows.paragraphs(page, 400)
    assert all(len(part) >= 400 for part in found) and page.startswith("\n\n".join(found))


def test_numbers_change_at_each_bos():
    ids = torch.tensor([[0, 5, 6, 0, 7, 0, 0, 8]])
    assert rows.numbers(ids, 0).tolist() == [[1, 1, 1, 2, 2, 3, 4, 4]]
