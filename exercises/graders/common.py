"What the graders of all chapters share: how a call is written in a message, and what is said when it fails"
from contextlib import contextmanager

def number(x)->str:
    "A number as people write it, where that is exact: 250_000_000 or 11.2e9, and not 11200000000.0"
    if whole(x) and abs(x) >= 100_000:
        return f"{x:_}"
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not 1e6 <= abs(x) < 1e300:
        return repr(x)
    power = (len(str(int(abs(x))))-1)//3*3
    text = f"{x/10**power:.6g}e{power}"
    return text if float(text) == x else repr(x)

def many(n:int, thing:str)->str:
    "A number of things: 1 row, 3 rows"
    return f"{n:,} {thing}{'' if n == 1 else 's'}"

def written(name:str, *args, **named)->str:
    "A call as text that can be copied into a cell"
    return f"{name}({', '.join([*map(number, args), *(f'{k}={number(v)}' for k, v in named.items())])})"

@contextmanager
def telling(said:str):
    "An error while a check uses what came back is told with the call; errors of the answer tell themselves"
    try:
        yield
    except AssertionError:
        raise
    except Exception as e:
        raise AssertionError(f"{said} raised {type(e).__name__}: {e}") from e

def call(said:str, answer, *args):
    "What the answer gives back for these arguments; `said` is the call as text"
    return something(said, answer(*args))

def something(said:str, got):
    "What came back, if anything did"
    assert got is not None, f"{said}: nothing came back: is there a `return`?"
    return got

def whole(x)->bool:
    "Is it a whole number, and of a kind that can be counted with?"
    return type(x) is int

def as_early_as_can_be(pieces):
    "Text of pieces of bytes as soon as it is whole, and � as soon as a byte can belong to no character"
    held = b""
    for piece in pieces:
        held, text = held+piece, ""
        while held:
            try:
                text, held = text+held.decode(), b""
            except UnicodeDecodeError as e:
                text, held = text+held[:e.start].decode(), held[e.start:]
                if e.reason == "unexpected end of data":
                    break
                text, held = text+"\ufffd", held[e.end-e.start:]
        yield text
    yield held.decode("utf-8", "replace")
