"""nanoGPT's recipe of 2023: chapter 07's baseline, AdamW, half a cosine

Shape and recipe are those of `python -m nanochat.baseline` for a CPU, except that a row has 256 tokens, as
in the validation text, and that rows are packed as chapter 05 packs them, where nanoGPT cuts windows.
"""

from dataclasses import replace
from torch.nn.utils import clip_grad_norm_
from nanochat.baseline import Baseline, adamw, rate_at, settings_for
from nanochat.runtime import seed_all

STEPS = 1450


class Learner:
    def __init__(self, seed, steps, text):
        seed_all(seed)
        config, recipe = settings_for("cpu", text.vocab_size, seq_len=256)
        self.recipe = replace(recipe, steps=steps)
        self.model = Baseline(config)
        self.optimizer = adamw(self.model, self.recipe)
        self.batches = text.batches(seed, self.recipe.rows)
        self.step = 0

    def train(self, n):
        for _ in range(n):
            ids_BT, targets_BT = next(self.batches)
            self.model(ids_BT, targets_BT).backward()
            clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(self.step, self.recipe)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1

    def losses(self, ids_BT, targets_BT):
        return self.model.losses(ids_BT, targets_BT)
