"""Chapter 16: how fast CORE is sat, beside one question at a time.

    python bench/core.py --core DIR [--n 60]     each task of the bundle that is there, both ways in turns

The peer is what nanochat's core_eval does: a question at a time, its choices side by side in one pass, the
prompt read again for each, and logits at every place. Ours reads prompts of similar length together, each
once, goes on from their keys and values with every choice, and asks the head only about the choices. Between
the two stands a question at a time with the head asked only where needed. The model has the laptop tier's
shape with longer rows and random weights (time does not depend on what it knows), the tokenizer 4,096 ids
learned from the bundle. All verdicts must be equal. The goal is three times the peer's speed over all tasks.
"""

import argparse, json, statistics, sys, time
from dataclasses import replace
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(here))
import torch
from nanochat.evaluate import choice_nats, exact_matches, fitted_pairs, in_turn, load_core, n_positions
from nanochat.evaluate import options, row_pairs, shots_before, sit_exam
from nanochat.gpt import GPT
from nanochat.runs import atomic_write
from nanochat.runtime import provenance, seed_all
from nanochat.scaling import make_plan, model_config
from nanochat.tokenizer import Tokenizer

GOAL, ROWS = 3.0, 200


def learn_tokenizer(tasks):
    "4,096 ids from the first rows of each task"
    rows = [row for task in tasks.values() for row in (task["rows"] or [])[:ROWS]]
    return Tokenizer.train((f"{context} {ending}" for row in rows for context, ending in options(row)), 4096)


def random_model(tok, seq_len):
    "The laptop tier's shape, with opinions about everything and knowledge of nothing"
    seed_all(0)
    plan = replace(make_plan("laptop"), vocab_size=tok.vocab_size, seq_len=seq_len)
    model = GPT(model_config(plan)).eval()
    for name, weight in model.named_parameters():
        if name.endswith(("lm_head.weight", "c_proj.weight")):
            torch.nn.init.normal_(weight, std=0.1)
    return model


def asked(model, tok, task, n):
    "Each question by itself: its row, and what is read and scored for each option"
    rows = in_turn(task["rows"], n)
    for i, row in enumerate(rows):
        pairs = row_pairs(tok, row, task["delimiter"], shots_before(rows, i, task["shots"]))
        yield row, fitted_pairs(pairs, n_positions(model))[0]


@torch.inference_mode()
def as_nanochat(model, tok, task, n):
    "Right or wrong of each question: logits at every place of every option"
    rights = []
    for row, pairs in asked(model, tok, task, n):
        whole = [[*prompt, *choice] for prompt, choice in pairs]
        longest = max(map(len, whole))
        padded = torch.tensor([ids + [tok.bos] * (longest - len(ids)) for ids in whole])
        ids_BT, targets_BT = padded[:, :-1].contiguous(), padded[:, 1:].contiguous()
        logits_BTV = model(ids_BT)
        nats_BT = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none"
        ).view_as(ids_BT)
        best_BT = logits_BTV.argmax(-1)
        spans = [slice(len(prompt) - 1, len(prompt) + len(choice) - 1) for prompt, choice in pairs]
        if "gold" in row:
            nats = [nats_BT[k, span].mean().item() for k, span in enumerate(spans)]
            rights.append(nats.index(min(nats)) == row["gold"])
        else:
            rights.append(best_BT[0, spans[0]].tolist() == list(pairs[0][1]))
    return rights


def one_at_a_time(model, tok, task, n):
    "The same by our own functions, which ask the head only where something is scored"
    rights = []
    for row, pairs in asked(model, tok, task, n):
        if "gold" in row:
            nats = choice_nats(model, pairs)
            rights.append(nats.index(min(nats)) == row["gold"])
        else:
            rights.extend(exact_matches(model, pairs))
    return rights


def together(model, tok, task, n):
    "The exam as the library sits it"
    items = sit_exam(model, tok, task["rows"], task["delimiter"], task["shots"], n)
    return [item.right for item in items]


def timed(work):
    "What it gives, and its seconds"
    began = time.perf_counter()
    return work(), time.perf_counter() - began


WAYS = dict(nanochat=as_nanochat, alone=one_at_a_time, together=together)


def measure(model, tok, task, n, laps):
    "All ways in turns"
    seconds, verdicts = {name: [] for name in WAYS}, {}
    for _ in range(laps):
        for name, way in WAYS.items():
            verdicts[name], took = timed(lambda: way(model, tok, task, n))
            seconds[name].append(took)
    questions = len(verdicts["together"])
    equal = min(sum(a == b for a, b in zip(of_way, verdicts["together"])) for of_way in verdicts.values())
    medians = {name: statistics.median(of_way) for name, of_way in seconds.items()}
    return dict(questions=questions, equal=equal, shots=task["shots"], seconds=medians)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--core", required=True, help="folder of an unpacked bundle")
    p.add_argument("--n", type=int, default=60, help="questions of each task")
    p.add_argument("--laps", type=int, default=3)
    p.add_argument("--seq_len", type=int, default=1024, help="the model reads twice as many tokens")
    p.add_argument("--out", type=Path, default=here / "bench" / "results" / "core.json")
    a = p.parse_args()
    tasks = {name: task for name, task in load_core(a.core).items() if task["rows"]}
    tok = learn_tokenizer(tasks)
    model, found = random_model(tok, a.seq_len), {}
    for name, task in tasks.items():
        found[name] = row = measure(model, tok, task, a.n, a.laps)
        words = ", ".join(f"{way} {seconds:.2f} s" for way, seconds in row["seconds"].items())
        print(f"{name}: {words}; {row['equal']} of {row['questions']} verdicts equal", flush=True)
    total = {way: sum(row["seconds"][way] for row in found.values()) for way in WAYS}
    ratios = {way: total[way] / total["together"] for way in ("nanochat", "alone")}
    equal = all(row["equal"] == row["questions"] for row in found.values())
    out = dict(tasks=found, seconds=total, ratios=ratios, equal=equal, n=a.n, laps=a.laps, seq_len=a.seq_len)
    out |= dict(params=sum(w.numel() for w in model.parameters()), provenance=provenance())
    atomic_write(a.out, json.dumps(out, indent=1) + "\n")
    print(
        f"all: {ratios['nanochat']:.2f} times nanochat's way (goal {GOAL}), {ratios['alone']:.2f} times a "
        f"question at a time; {'all' if equal else 'NOT ALL'} verdicts equal"
    )
    sys.exit(int(ratios["nanochat"] < GOAL or not equal))


if __name__ == "__main__":
    main()
