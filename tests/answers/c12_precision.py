"Answers to the exercises of chapter 12"
import torch

from answers import Answers

answers = Answers()

# ---- 1. a layer in whole numbers ----

def rows(a, top, size=None, near=torch.round):
    "Whole multiples of a factor for each row"
    size = a.abs().amax(-1, keepdim=True) if size is None else size
    factor = torch.where(size > 0, size, torch.ones_like(size))/top
    return near(a/factor)*factor

def made_of(one, other=None, top_of=lambda top: top):
    "A layer whose two factors are rounded by two functions (a, top)"
    other = other or one
    def whole_layer(x, w, top):
        top = top_of(top)
        def times(a, b):
            return one(a, top) @ other(b, top).T
        return times(x, w), lambda g: (times(g, w.T), times(g.T, x.T))
    return whole_layer

right_layer = made_of(rows)

@answers.right("layer")
def with_integers_apart(x, w, top):
    def split(a):
        factor = (a.abs().amax(-1)/top).clamp(min=1e-300)
        return (a/factor[:, None]).round(), factor
    def times(a, b):
        (codes_a, factor_a), (codes_b, factor_b) = split(a), split(b)
        return (codes_a @ codes_b.T)*factor_a[:, None]*factor_b
    return times(x, w), lambda grad: (times(grad, w.T), times(grad.T, x.T))

@answers.right("layer")
def a_list_and_nested_functions(x, w, top):
    def by_columns(a):
        return rows(a.T, top).T
    def back(g):
        return [rows(g, top) @ by_columns(w), by_columns(g).T @ by_columns(x)]
    return [rows(x, top) @ rows(w, top).T, back]

answers.wrong("layer", "factors for columns")(made_of(lambda a, top: rows(a.T, top).T))
answers.wrong("layer", "one number too many")(made_of(rows, top_of=lambda top: top+1))
answers.wrong("layer", "one number too few")(made_of(rows, top_of=lambda top: top-1))
answers.wrong("layer", "always eight bits")(made_of(rows, top_of=lambda top: 127))
answers.wrong("layer", "the sign of the largest is lost")(
    made_of(lambda a, top: rows(a, top, a.amax(-1, keepdim=True).abs())))
answers.wrong("layer", "the mean for the largest")(
    made_of(lambda a, top: rows(a, top, a.abs().mean(-1, keepdim=True))))
answers.wrong("layer", "towards zero")(made_of(lambda a, top: rows(a, top, near=torch.trunc)))
answers.wrong("layer", "one factor for all", named="one factor for all")(
    made_of(lambda a, top: rows(a, top, a.abs().max())))
answers.wrong("layer", "in float16")(
    made_of(lambda a, top: rows(a, top).half().double()))

@answers.wrong("layer", named="w before x")
def swapped(x, w, top):
    y, back = right_layer(x, w, top)
    return y, lambda grad: back(grad)[::-1]

@answers.wrong("layer", named="only forward")
def exact_gradients(x, w, top):
    return right_layer(x, w, top)[0], lambda grad: (grad @ w, grad.T @ x)

@answers.wrong("layer")
def exact_forward(x, w, top):
    return x @ w.T, right_layer(x, w, top)[1]

@answers.wrong("layer", named="rounded once, turned afterwards")
def turned_afterwards(x, w, top):
    def back(grad):
        return rows(grad, top) @ rows(w, top), rows(grad, top).T @ rows(x, top)
    return rows(x, top) @ rows(w, top).T, back

@answers.wrong("layer")
def gradient_of_w_lies(x, w, top):
    y, back = right_layer(x, w, top)
    return y, lambda grad: (back(grad)[0], back(grad)[1].T)

@answers.wrong("layer")
def rounded_output(x, w, top):
    y, back = right_layer(x, w, top)
    return rows(y, top), back

@answers.wrong("layer")
def no_function(x, w, top):
    return right_layer(x, w, top)[0], x

@answers.wrong("layer")
def in_place(x, w, top):
    x.copy_(rows(x, top))
    return right_layer(x, w, top)

# ---- 2. one step ----

def stepped(layer=right_layer, two=2., gate=lambda before, out: before > 0, rate=1., last=lambda out: out,
            order=1, exact_back=False):
    "One step of the network, with switches"
    def step(w1, w2, x, y, lr, top):
        before, back1 = layer(x, w1, top)
        hidden = torch.relu(before)
        out, back2 = layer(hidden, w2, top)
        if exact_back:
            back1, back2 = (lambda g: (g @ w1, g.T @ x)), (lambda g: (g @ w2, g.T @ hidden))
        grad_hidden, grad_w2 = back2(two*(last(out)-y)/out.numel())
        grad_w1 = back1(grad_hidden*gate(before, out))[1]
        return (w1-rate*lr*grad_w1, w2-rate*lr*grad_w2)[::order]
    return step

right_step = stepped()

@answers.right("step")
def with_a_list(w1, w2, x, y, lr, top):
    return list(right_step(w1, w2, x, y, lr, top))

@answers.right("step")
def gate_by_where(w1, w2, x, y, lr, top):
    return stepped(gate=lambda before, out: torch.where(before > 0, 1., 0.))(w1, w2, x, y, lr, top)

answers.wrong("step", "the two of the square")(stepped(two=1.))
answers.wrong("step", "half of the rate")(stepped(rate=.5))
answers.wrong("step", "up", named="up the hill")(stepped(rate=-1.))
answers.wrong("step", "w2 first")(stepped(order=-1))
answers.wrong("step", "no gate", named="no gate")(stepped(gate=lambda before, out: 1.))
answers.wrong("step", "the gate is turned round")(stepped(gate=lambda before, out: before < 0))
answers.wrong("step", "a leaky gate")(stepped(gate=lambda before, out: (before > 0)*.99+.01))
answers.wrong("step", "relu at the end")(stepped(last=torch.relu))
answers.wrong("step", "exact backward pass")(stepped(exact_back=True))
answers.wrong("step", "one factor for a matrix")(
    stepped(layer=made_of(lambda a, top: rows(a, top, a.abs().max()))))
answers.wrong("step", "always eight bits")(stepped(layer=made_of(rows, top_of=lambda top: 127)))

@answers.wrong("step", named="the weights are rounded")
def rounded_weights(w1, w2, x, y, lr, top):
    return [rows(w, top) for w in right_step(w1, w2, x, y, lr, top)]

@answers.wrong("step")
def bfloat16_weights(w1, w2, x, y, lr, top):
    return [w.bfloat16().double() for w in right_step(w1, w2, x, y, lr, top)]

@answers.wrong("step")
def only_the_second(w1, w2, x, y, lr, top):
    return w1, right_step(w1, w2, x, y, lr, top)[1]

@answers.wrong("step")
def gradients(w1, w2, x, y, lr, top):
    return [w-new for w, new in zip((w1, w2), right_step(w1, w2, x, y, lr, top))]

# ---- 3. ready ----

def norm_of(grads):
    return torch.cat([g.flatten() for g in grads]).norm().item()

def all_finite(grads):
    return all(g.isfinite().all() for g in grads)

def shortened(grads, scale, max_norm, norm=norm_of):
    true = [g/scale for g in grads]
    size = norm(true)
    return [g*min(1., max_norm/size) if size else g for g in true]

@answers.right("ready")
def as_torch_clips(grads, scale, max_norm):
    if not all_finite(grads):
        return None
    true = [g.clone()/scale for g in grads]
    factor = max_norm/(norm_of(true)+1e-6)
    return tuple(g*factor if factor < 1 else g for g in true)

@answers.right("ready")
def the_limit_is_scaled(grads, scale, max_norm):
    "Clips at max_norm*scale and divides afterwards: the same"
    if not all_finite(grads):
        return None
    norm = norm_of(grads)
    factor = min(1., max_norm*scale/norm) if norm else 1.
    return [g*factor/scale for g in grads]

def if_finite(answer):
    return lambda grads, scale, max_norm: answer(grads, scale, max_norm) if all_finite(grads) else None

@answers.wrong("ready", named="no step is skipped")
def never_skipped(grads, scale, max_norm):
    return shortened(grads, scale, max_norm)

@answers.wrong("ready", named="clipped with the scale in it")
def clipped_first(grads, scale, max_norm):
    if not all_finite(grads):
        return None
    return [g/scale for g in shortened(grads, 1., max_norm)]

def mean_square(grads):
    flat = torch.cat([g.flatten() for g in grads])
    return flat.square().mean().sqrt().item()

def largest(grads):
    return max(g.abs().max().item() for g in grads)

def first_only(grads):
    return grads[0].norm().item()

def squared(grads):
    return norm_of(grads)**2

answers.wrong("ready", "root mean square")(if_finite(lambda *a: shortened(*a, norm=mean_square)))
answers.wrong("ready", "the largest number")(if_finite(lambda *a: shortened(*a, norm=largest)))
answers.wrong("ready", "norm of the first")(if_finite(lambda *a: shortened(*a, norm=first_only)))
answers.wrong("ready", "no root")(if_finite(lambda *a: shortened(*a, norm=squared)))
answers.wrong("ready", "not clipped")(if_finite(lambda grads, scale, max_norm: [g/scale for g in grads]))
answers.wrong("ready", "times the scale")(
    if_finite(lambda grads, scale, max_norm: shortened(grads, 1/scale, max_norm)))
answers.wrong("ready", "norm and gradients")(
    if_finite(lambda grads, scale, max_norm: (norm_of(grads), shortened(grads, scale, max_norm))))
answers.wrong("ready", "one tensor")(
    if_finite(lambda *a: torch.cat([g.flatten() for g in shortened(*a)])))

@answers.wrong("ready")
def skipped_where_long(grads, scale, max_norm):
    true = [g/scale for g in grads]
    return None if not all_finite(grads) or norm_of(true) > max_norm else true

@answers.wrong("ready")
def too_large_for_float16(grads, scale, max_norm):
    if any(not (g.abs() < 65504).all() for g in grads):
        return None
    return shortened(grads, scale, max_norm)

@answers.wrong("ready")
def gaps_are_filled(grads, scale, max_norm):
    return shortened([g.nan_to_num(0., 0., 0.) for g in grads], scale, max_norm)

@answers.wrong("ready")
def in_place_division(grads, scale, max_norm):
    if not all_finite(grads):
        return None
    for g in grads:
        g.div_(scale)
    return shortened(grads, 1., max_norm)

@answers.wrong("ready")
def zero_over_zero(grads, scale, max_norm):
    if not all_finite(grads):
        return None
    true = [g/scale for g in grads]
    factor = (max_norm/torch.tensor(norm_of(true))).clamp(max=1.)
    return [torch.where(factor < 1, g*factor, g)*(g/g if not g.any() else 1.) for g in true]

# ---- 4. which head ----

def soft(z, cap):
    return cap*torch.tanh(z/cap)

def expected(logits, cap):
    z = torch.tensor(logits).bfloat16()
    whole = z.float()
    return {"right": soft(whole, cap), "cap early": soft(z, cap).float(), "hard": whole.clamp(-cap, cap),
            "twice": soft(soft(whole, cap), cap), "no cap": whole}

def nearest(head, logits, cap=15., words=None):
    got = torch.tensor(head(logits, cap))
    far = {word: (value-got).abs().sum().item() for word, value in expected(logits, cap).items()
           if not words or word in words}
    return min(far, key=far.get)

@answers.right("which")
def many_questions(head):
    return nearest(head, [k/8 for k in range(-400, 400)])

@answers.right("which")
def by_properties(head):
    at_top, low = head([1000., 14.], 15.)
    if at_top > 16:
        return "no cap"
    if at_top < 13:
        return "twice"
    if abs(low-14) < 1e-3:
        return "hard"
    grid = [v*16 for v in head([8+k/16 for k in range(1, 60)], 15.) if v >= 8]
    return "cap early" if all(abs(v-round(v)) < 1e-3 for v in grid) else "right"

for word in ("cap early", "hard", "twice", "no cap", "Right", ""):
    answers.wrong("which", f"always {word or 'nothing'}")(lambda head, word=word: word)
for word in ("right", "cap early", "hard", "twice", "no cap"):
    others = {"right", "cap early", "hard", "twice", "no cap"}-{word}
    answers.wrong("which", f"never {word}")(
        lambda head, others=others: nearest(head, [20.125], words=others))
answers.wrong("which", "a tiny cap")(lambda head: nearest(head, [1000.], 0.5))
answers.wrong("which", "a huge cap")(lambda head: nearest(head, [1.], 1e6))

# ---- 5. by chance ----

def whole_noise(noise):
    return (noise*65536).int()

@answers.right("chance")
def by_comparing(x, noise):
    word = x.view(torch.int32)
    up = (word & 0xFFFF) + whole_noise(noise) >= 65536
    return ((word >> 16) + up).short().view(torch.bfloat16)

@answers.right("chance")
def with_long_numbers(x, noise):
    word = (x.view(torch.int32).long() & 0xFFFFFFFF) + whole_noise(noise).long()
    top = word >> 16 & 0xFFFF
    return torch.where(top >= 32768, top-65536, top).short().view(torch.bfloat16)

def carried(noise_of, mask=-1):
    "The right answer with another noise"
    def by_chance(x, noise):
        word = (x.view(torch.int32) & mask) + noise_of(x, noise).int()
        return (word >> 16).short().view(torch.bfloat16)
    return by_chance

answers.wrong("chance", "one more")(carried(lambda x, noise: whole_noise(noise)+1))
answers.wrong("chance", "half a number more")(carried(lambda x, noise: whole_noise(noise)+32768))
answers.wrong("chance", "fifteen bits")(carried(lambda x, noise: noise*32768))
answers.wrong("chance", "seventeen bits")(carried(lambda x, noise: noise*131072))
answers.wrong("chance", "eight bits of noise")(carried(lambda x, noise: (noise*256).int()*256))
answers.wrong("chance", "one noise for all")(carried(lambda x, noise: whole_noise(noise[:1])*(x == x)))
answers.wrong("chance", "noise taken away")(carried(lambda x, noise: -whole_noise(noise)))
answers.wrong("chance", "subtracted below zero")(
    carried(lambda x, noise: torch.where(x < 0, -whole_noise(noise), whole_noise(noise))))
answers.wrong("chance", "the share has fifteen bits")(carried(lambda x, noise: whole_noise(noise), ~1023))
answers.wrong("chance", "nearest", named="always the nearest")(lambda x, noise: x.bfloat16())
answers.wrong("chance", "its own chance")(lambda x, noise: right_chance(x, torch.rand_like(x)))
answers.wrong("chance", "float32 comes back")(lambda x, noise: right_chance(x, noise).float())
answers.wrong("chance", "float16")(lambda x, noise: x.half().to(torch.bfloat16))

right_chance = carried(lambda x, noise: whole_noise(noise))

@answers.wrong("chance")
def away_from_zero_always(x, noise):
    word = x.view(torch.int32) + 65535
    return (word >> 16).short().view(torch.bfloat16)

@answers.wrong("chance")
def gap_of_one(x, noise):
    "Linear in the value, with the gap that numbers between 1 and 2 have"
    return (x + x.sign()*noise/128).bfloat16()

