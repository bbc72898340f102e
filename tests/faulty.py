"pretrain with a fault in one process: FAULT says which, and at which step (`gradient:5`)"

import math, os
import torch
from nanochat import pretrain
from nanochat.runs import rank

kind, step = os.environ["FAULT"].split(":")
as_it_is, calls, sizes = pretrain.backward, [0], set()


def faulty(model, batches, n_tokens, loss_scale=None):
    calls[0] += 1
    batches = list(batches)
    if kind == "memory" and rank() == 1 and calls[0] >= int(step) and len(batches[0][0]) > 1:
        return as_it_is(no_memory, batches, n_tokens)
    total = as_it_is(model, iter(batches), n_tokens, loss_scale)
    if kind == "gradient" and rank() == 1 and calls[0] == int(step):
        next(model.parameters()).grad.view(-1)[-1] = math.inf
    if kind == "gradients" and rank() == 1 and calls[0] >= int(step):
        next(model.parameters()).grad.view(-1)[-1] = math.nan
    if kind == "loss" and rank() == 1 and calls[0] == int(step):
        total = total * math.nan
    if kind == "high" and rank() == 1 and calls[0] >= int(step):
        total = total + 9
    return total


class no_memory:
    "A model on a device that is full"

    device = torch.device("cpu")

    def __new__(cls, *args, **kwargs):
        raise torch.OutOfMemoryError("out of memory (injected)")


pretrain.backward = faulty
pretrain.main()
