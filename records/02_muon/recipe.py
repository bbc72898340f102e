"""The modern GPT of chapter 09, its matrices stepped by Muon (chapters 10 and 11)

Shape, batch and rates are those of the course's scoreboard: 4 layers, 128 wide, 8 rows of 256 tokens a step.
"""

from nanochat.distributed import MuonAdamW, param_groups
from nanochat.gpt import GPT, MODERN, GPTConfig
from nanochat.optim import momentum_at
from nanochat.pretrain import lr_at
from nanochat.runtime import seed_all

STEPS = 165
ROWS = 8


class Learner:
    def __init__(self, seed, steps, text):
        seed_all(seed)
        self.steps, self.step = steps, 0
        self.model = GPT(GPTConfig(text.vocab_size, n_layer=4, n_head=4, n_kv_head=4, n_embd=128, **MODERN))
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
