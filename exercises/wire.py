"""Values as data: how an answer's results leave the student's process.

A result travels as JSON in which every container has a tag, and is made anew on the other side from exact
types only: numbers, text, bytes, lists, tuples, dicts, sets, arrays, tensors, and the library's own named
tuples. Objects of a student's own classes do not travel, so nothing that a student wrote is ever called by
whoever compares. No pickle is read from a student. `data(value)` is the same journey without a process: a
cell in a notebook is judged by it, too.
"""
import base64, json, os, struct, sys
from collections import Counter, deque
from decimal import Decimal
from fractions import Fraction
from itertools import islice

MOST_BYTES = 16 << 20       # of one message
MOST_ITEMS = 1_000_000      # of one iterator
MOST_MEMORY = 3 << 30       # of a notebook with all that it starts
TOO_MUCH_MEMORY = 7         # the keeper's exit status where they took more

class NotData(TypeError):
    "A value that can't leave the student's process"

class Broken(Exception):
    "What came is no message"

# ---- out: a value becomes tagged JSON ----

# Methods of the base class are named in full, so that those of a subclass are never called.
PLAIN = ((int, int.__int__), (float, float.__float__), (str, str.__str__))
VIEWS = (range, deque, type({}.keys()), type({}.values()), type({}.items()))

def encode(value):
    "A value as tagged JSON; NotData where it is none"
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    for base, exact in PLAIN:
        if issubclass(kind, base):
            return exact(value)
    for base in (bytes, bytearray):
        if issubclass(kind, base):
            return [base.__name__, text_of(bytes(memoryview(value)))]
    if issubclass(kind, tuple):
        return encode_tuple(kind, value)
    if issubclass(kind, list):
        return ["list", *map(encode, list.__iter__(value))]
    if issubclass(kind, dict):
        tag = "counter" if issubclass(kind, Counter) else "dict"
        return [tag, *([encode(k), encode(v)] for k, v in dict.items(value))]
    for base in (frozenset, set):
        if issubclass(kind, base):
            return [base.__name__, *map(encode, base.__iter__(value))]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind in (Fraction, Decimal):
        return float(value)
    return encode_array(kind, value) or encode_iterator(kind, value)

def encode_tuple(kind, value):
    "A tuple; a named one of the library keeps its name"
    library = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    if library and kind.__module__.startswith("nanochat.") and hasattr(kind, "_fields"):
        return ["named", kind.__module__, kind.__name__, *map(encode, tuple.__iter__(value))]
    return ["tuple", *map(encode, tuple.__iter__(value))]

def encode_array(kind, value):
    "An array or a tensor as type, shape and bytes; None for anything else"
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy and issubclass(kind, numpy.generic):
        return encode(value.item())
    if numpy and issubclass(kind, numpy.ndarray):
        if value.dtype.kind not in "biufc":
            raise NotData(f"an array of {value.dtype}: give back numbers")
        return ["array", value.dtype.str, list(value.shape), text_of(value.tobytes())]
    if torch and issubclass(kind, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        dtype = str(value.dtype).removeprefix("torch.")
        return ["tensor", dtype, list(value.shape), text_of(flat.numpy().tobytes())]

def encode_iterator(kind, value):
    "What a generator yields, or a range holds, as a list"
    if not hasattr(kind, "__next__") and kind not in VIEWS:
        raise NotData(f"an object of type {kind.__name__} came back, which is not data: "
                      "give back numbers, text, lists, dicts or tensors")
    items = list(islice(value, MOST_ITEMS+1))
    if len(items) > MOST_ITEMS:
        raise NotData(f"an iterator with more than {MOST_ITEMS:,} items came back")
    return ["list", *map(encode, items)]

def text_of(raw:bytes)->str: return base64.b64encode(raw).decode()

# ---- in: tagged JSON becomes a value, of exact types ----

def decode_named(module, name, *items):
    "A named tuple of the library, if there is such a one"
    kind = getattr(sys.modules.get(module), name, None) if module.startswith("nanochat.") else None
    if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise Broken(f"no named tuple {name}")
    return kind._make(map(decode, items))

def decode_array(dtype, shape, raw):
    "An array of numbers"
    import numpy
    kind = numpy.dtype(dtype)
    if kind.kind not in "biufc":
        raise Broken("an array of objects")
    return numpy.frombuffer(base64.b64decode(raw), kind).reshape(shape).copy()

def decode_tensor(dtype, shape, raw):
    "A tensor of numbers"
    import torch
    kind, raw = getattr(torch, dtype), bytearray(base64.b64decode(raw))
    if not isinstance(kind, torch.dtype):
        raise Broken("a tensor of objects")
    flat = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
    return flat.reshape(shape)

def pairs(items): return ((decode(k), decode(v)) for k, v in items)

DECODERS = dict(
    list=lambda *items: list(map(decode, items)),
    tuple=lambda *items: tuple(map(decode, items)),
    set=lambda *items: set(map(decode, items)),
    frozenset=lambda *items: frozenset(map(decode, items)),
    dict=lambda *items: dict(pairs(items)),
    counter=lambda *items: Counter(dict(pairs(items))),
    bytes=lambda raw: base64.b64decode(raw),
    bytearray=lambda raw: bytearray(base64.b64decode(raw)),
    complex=complex, named=decode_named, array=decode_array, tensor=decode_tensor)

def decode(tagged):
    "The value of tagged JSON"
    if tagged is None or type(tagged) in (bool, int, float, str):
        return tagged
    if type(tagged) is not list or not tagged or type(tagged[0]) is not str:
        raise Broken("no value")
    return DECODERS[tagged[0]](*tagged[1:])

def data(value):
    "What arrives of a value: the same, of exact types"
    return decode(json.loads(written(value)))

def written(value)->str:
    "A value as text"
    try:
        tagged = encode(value)
    except RecursionError:
        raise NotData("what came back is nested too deeply, or contains itself") from None
    except OverflowError:
        raise NotData("what came back holds a number that is too large") from None
    try:
        return json.dumps(tagged)
    except ValueError as e:
        raise NotData(f"what came back can't be written down: {e}") from None

# ---- messages: a length, then bytes ----

def send(fd:int, raw:bytes)->None:
    "Write one message"
    write(fd, struct.pack(">I", len(raw))+raw)

def write(fd:int, raw:bytes)->None:
    "Write all of it"
    rest = memoryview(raw)
    while rest:
        rest = rest[os.write(fd, rest):]

def receive(fd:int)->bytes:
    "Read one message; EOFError where the other side is gone"
    size, = struct.unpack(">I", exactly(fd, 4))
    if size > MOST_BYTES:
        raise Broken("a message that is too long")
    return exactly(fd, size)

def exactly(fd:int, n:int)->bytes:
    "The next n bytes"
    parts = []
    while n:
        parts.append(os.read(fd, min(n, 1 << 20)))
        if not parts[-1]:
            raise EOFError
        n -= len(parts[-1])
    return b"".join(parts)
