"""02 halved: half the layers, heads and rows in a step, and half the bits (bfloat16)

So far from the end of training, two layers learn from a text nearly as much as four, and a gradient of 1,024
tokens points the way nearly as well as one of 2,048; either costs about half. A quarter of the rows was worse
in the one try that it had. Not compiled: building takes longer than the race (bench/results/precision.json).
"""

import torch
from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, MODERN, GPTConfig
from nanochat.optim import momentum_at
from nanochat.pretrain import lr_at
from nanochat.runtime import seed_all

STEPS = 280
ROWS = 4
SHAPE = dict(n_layer=2, n_head=2, n_kv_head=2, n_embd=128)


class Learner:
    def __init__(self, seed, steps, text):
        seed_all(seed)
        self.steps, self.step = steps, 0
        self.model = GPT(GPTConfig(text.vocab_size, **SHAPE, **MODERN), torch.bfloat16)
        self.optimizer = MuonAdamW(param_groups(self.model))
        self.batches = text.batches(seed, ROWS)

    def train(self, n):
        for _ in range(n):
            ids_BT, targets_BT = next(self.batches)
            self.model(ids_BT, targets_BT).backward()
            for group in self.optimizer.groups:
                group["lr"] = group["base_lr"] * lr_at(self.step, self.steps)
                if group["kind"] == "muon":
                    group["momentum"] = momentum_at(self.step)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1

    def losses(self, ids_BT, targets_BT):
        return self.model(ids_BT, targets_BT, reduction="none")
