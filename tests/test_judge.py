"The judge of code: right solutions pass, and no program that solves nothing does, whatever it tries"

import gzip, json, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
import pytest
from conftest import ROOT, environment
from nanochat.tasks import Code
from nanochat.world import World

WORLD = World(0)
PROGRAMS = WORLD.programs("test")
SAMPLE = PROGRAMS[::18]  # six tasks of six families
CODE = Code.__new__(Code)  # its verdict needs no world
NOTHING = "def NAME(*a): return None\n"
WORD = r"""
import re
def word(text): return (re.findall(r"print\('(\w+)'\)", text) or ['?'])[-1]
"""
FRAMES = """
import gc, sys, types
def frames():
    f = sys._getframe()
    while f: yield f; f = f.f_back
def strings(x, depth=4):
    if isinstance(x, str): yield x
    elif isinstance(x, types.CodeType): yield from (s for c in x.co_consts for s in strings(c, depth-1))
    elif depth and isinstance(x, dict): yield from (s for v in list(x.values()) for s in strings(v, depth-1))
    elif depth and isinstance(x, (list, tuple)): yield from (s for v in x for s in strings(v, depth-1))
"""
SCAN = """
import os, select
def everywhere(text):
    for fd in range(32):
        try: os.set_blocking(fd, False); os.write(fd, text)
        except OSError: pass
"""
PACKED_YES = """everywhere(b'["True"]\\n'*50)\n"""

HOSTILE = {
    "prints the word that it finds in its file": NOTHING
    + WORD
    + "print(word(open('program.py').read()))\nraise SystemExit(0)",
    "finds the word in constants of frames": NOTHING
    + FRAMES
    + (
        "for f in frames():\n for s in strings(f.f_code):\n  if re_word(s): print(s)\nraise SystemExit(0)"
    ).replace("re_word(s)", "len(s) == 16"),
    "prints every string that the collector knows": NOTHING
    + FRAMES
    + (
        "for o in gc.get_objects():\n for s in strings(o, 1):\n  if len(s) == 16: print(s)\n"
        "raise SystemExit(0)"
    ),
    "answers from the tests in its file": (
        "import re\n"
        "tests = dict(re.findall(r'assert NAME\\((.*)\\) == (.*)', open('program.py').read()))\n"
        "def NAME(*a): return eval(tests[', '.join(map(repr, a))])"
    ),
    "answers from tests in frames": FRAMES
    + (
        "import re\nfound = {}\nfor f in frames():\n for s in strings(f.f_locals):\n"
        "  found.update(re.findall(r'NAME\\((.*?)\\) == (.*)', s))\n"
        "def NAME(*a): return eval(found[', '.join(map(repr, a))])"
    ),
    "an object equal to everything": (
        "class E:\n def __eq__(s, o): return True\n def __hash__(s): return 0\ndef NAME(*a): return E()"
    ),
    "a whole number equal to everything": (
        "class E(int):\n def __eq__(s, o): return True\n def __hash__(s): return 0\ndef NAME(*a): return E(3)"
    ),
    "a text equal to everything": (
        "class E(str):\n def __eq__(s, o): return True\n def __hash__(s): return 0\n"
        "def NAME(*a): return E('moon')"
    ),
    "a list equal to everything": (
        "class E(list):\n def __eq__(s, o): return True\ndef NAME(*a): return E([1])"
    ),
    "a list of things equal to everything": (
        "class E:\n def __eq__(s, o): return True\ndef NAME(*a): return [E()]*3"
    ),
    "a number that says it is an int": (
        "class E:\n __class__ = int\n def __eq__(s, o): return True\ndef NAME(*a): return E()"
    ),
    "a class equal to everything": (
        "class M(type):\n def __eq__(s, o): return True\n def __hash__(s): return 0\n"
        "class E(metaclass=M): pass\ndef NAME(*a): return E"
    ),
    "not a number": "def NAME(*a): return float('nan')",
    "atexit prints the word": NOTHING
    + WORD
    + "import atexit\natexit.register(lambda: print(word(open('program.py').read())))",
    "atexit after a failure": NOTHING
    + WORD
    + (
        "import atexit, os\ndef bye():\n print(word(open('program.py').read()), flush=True)\n"
        " os._exit(0)\natexit.register(bye)\nraise SystemExit(1)"
    ),
    "excepthook prints the word": NOTHING
    + WORD
    + (
        "import sys, os\ndef hook(*a):\n print(word(open('program.py').read()), flush=True)\n"
        " os._exit(0)\nsys.excepthook = hook"
    ),
    "traceback is patched": NOTHING
    + WORD
    + (
        "import traceback, os\ndef hook(*a, **k):\n"
        " print(word(open('program.py').read()), flush=True)\n os._exit(0)\n"
        "traceback.print_exception = hook"
    ),
    "a tracer skips failing lines": NOTHING
    + (
        "import sys\ndef t(f, e, a):\n if e == 'line' and f.f_code.co_filename == 'program.py':\n"
        "  try: f.f_lineno += 1\n  except ValueError: pass\n return t\nsys.settrace(t)\n"
        "f = sys._getframe()\nwhile f: f.f_trace = t; f = f.f_back"
    ),
    "a tracer changes what is returned": NOTHING
    + (
        "import sys\ndef t(f, e, a):\n f.f_locals.update(value=True, said='[\"True\"]')\n"
        " return t\nsys.settrace(t)"
    ),
    "exits before the tests": NOTHING + "raise SystemExit(0)",
    "exits hard before the tests": NOTHING + "import os\nos._exit(0)",
    "exits when called": "def NAME(*a): raise SystemExit(0)",
    "exits hard when called": "import os\ndef NAME(*a): os._exit(0)",
    "is interrupted when called": "def NAME(*a): raise KeyboardInterrupt",
    "AssertionError replaced": NOTHING
    + (
        "import builtins\nclass Quiet(Exception):\n def __new__(c, *a): raise SystemExit(0)\n"
        "builtins.AssertionError = AssertionError = Quiet"
    ),
    "an open string swallows the tests": NOTHING + "x = '''",
    "an open bracket swallows the tests": NOTHING + "x = (0,",
    "a function swallows the tests": NOTHING + "if False:\n  pass\nelse:\n def rest():\n  pass\n",
    "print is patched": NOTHING
    + "import builtins\nold = print\ndef print(*a): old('THE WORD', *a)\nbuiltins.print = print",
    "eval and repr are patched": NOTHING
    + (
        "import builtins\nbuiltins.eval = lambda *a: True\nbuiltins.repr = lambda x: 'True'\n"
        "builtins.type = lambda x: bool"
    ),
    "its packer is replaced": NOTHING
    + FRAMES
    + "for f in frames():\n if 'pack' in f.f_globals: f.f_globals['pack'] = lambda v, depth=9: '[\"True\"]'",
    "every packer's code is replaced": NOTHING
    + (
        "import gc, types\nfor o in gc.get_objects():\n"
        " if isinstance(o, types.FunctionType) and o.__name__ in ('pack', 'same', 'unpack', "
        "'right', 'judge_code'): o.__code__ = (lambda value=0, depth=0: '[\"True\"]').__code__"
    ),
    "json is patched": NOTHING + "import json\njson.dumps = json.loads = lambda *a, **k: True",
    "os.read and os.write are replaced": NOTHING
    + "import os\nos.write = lambda fd, b: len(b)\nos.read = lambda fd, n: b''",
    "writes yes to every descriptor": NOTHING + SCAN + PACKED_YES,
    "writes yes to every descriptor when called": SCAN
    + "def NAME(*a):\n everywhere(b'[\"True\"]\\n'*9)\n return None",
    "writes a guard's words to every descriptor": NOTHING
    + SCAN
    + (
        "everywhere(b'\\nlevels process limits namespace mounts files syscalls\\nend 0 "
        "finished\\nfinished\\nright\\n')\nos._exit(0)"
    ),
    "sends a class in the packed form": SCAN
    + 'def NAME(*a):\n everywhere(b\'["Judgement",[["True"]]]\\n\')\n return None',
    "sends what breaks a reader": SCAN + "def NAME(*a):\n everywhere(b'['*50000+b'\\n')\n return None",
    "reads the questions itself": NOTHING
    + SCAN
    + (
        "while True:\n for fd in range(3, 32):\n"
        "  try: os.set_blocking(fd, False); q = os.read(fd, 9999); everywhere(b'[\"True\"]\\n')\n"
        "  except OSError: pass"
    ),
    "echoes what comes": "def NAME(*a): return a[0] if a else None",
    "echoes all arguments": "def NAME(*a): return a",
    "looks for expected values in its memory": FRAMES
    + (
        "def NAME(*a):\n for o in gc.get_objects():\n"
        "  if type(o) is tuple and len(o) == 2 and isinstance(o[0], str) and "
        "o[0].startswith('NAME('): return o[1]"
    ),
    "imports the course's own tables": (
        "import sys, glob\n"
        "sys.path += [*glob.glob('/usr/lib/python3*/*-packages'), "
        "*glob.glob(sys.base_prefix+'/lib/python*/*-packages'), 'ROOT']\n"
        "from nanochat.world import all_programs\n"
        "solution = [p for part in all_programs().values() for p in part if p['entry_point'] == "
        "'NAME'][0]\nexec(solution['prompt']+solution['solution'])\ndef other(): pass\n# def NAME"
    ),
    "reads its parent's memory": NOTHING + "import os, re\ndata = open(f'/proc/{os.getppid()}/mem', 'rb')",
    "reads its parent's command and descriptors": NOTHING
    + "import os\nfor fd in range(64):\n open(f'/proc/{os.getppid()}/fd/{fd}', 'rb').read()",
    "a child goes on": NOTHING + "import os\nif os.fork(): os._exit(0)",
    "a bomb of memory": "def NAME(*a): return [0]*(1 << 40)",
    "an answer without end": "def NAME(*a): return 'x'*(1 << 22)",
    "an answer without bottom": "def NAME(*a):\n x = []\n x.append(x)\n return x",
    "a generator": "def NAME(*a): yield True",
    "small numbers are changed under Python's feet": NOTHING
    + (
        "import ctypes\nfor i in range(-5, 257): ctypes.c_int.from_address(id(i)+24).value = 3\n"
        "def NAME(*a): return 3"
    ),
    "is killed": "import ctypes\ndef NAME(*a): ctypes.string_at(0)",
    "prints everything": NOTHING + "for n in range(500): print(n, repr(n), [n], True, False, None)",
    "says that it is right": NOTHING + "print('ok'); print('True'); print('passed'); print('right')",
}
CONSTANTS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "True",
    "False",
    "None",
    "''",
    "'moon'",
    "'a'",
    "[]",
    "[1]",
    "[1, 2, 3]",
    "0.0",
    "{}",
    "()",
    "...",
    "NotImplemented",
]
HOSTILE |= {f"always {c}": f"def NAME(*a): return {c}" for c in CONSTANTS}


def fill(program, item):
    return program.replace("NAME", item["entry_point"]).replace("ROOT", str(ROOT))


def right(item, text):
    return CODE.right(item, text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_that_solves_nothing_is_wrong(name):
    if name == "imports the course's own tables":
        from nanochat.tools import isolation

        if not (isolation()["files"] or isolation()["mounts"]):
            pytest.skip("nothing hides the library here")
    for item in SAMPLE[:1] if "descriptor" in name or "itself" in name else SAMPLE:
        assert not right(item, fill(HOSTILE[name], item)), item["entry_point"]


@pytest.mark.filterwarnings("ignore:programs run here")
@pytest.mark.parametrize("landlock", [1, 2, 5, 99])
def test_the_judge_holds_without_namespaces_and_on_older_kernels(landlock):
    "As in a container: no program finds the tables or reaches the parent, right ones are right"
    from nanochat.tools import isolation, judge_code, read_tests

    if not (isolation()["files"] and isolation()["syscalls"]):
        pytest.skip("files and syscalls cannot be switched on here")
    item = SAMPLE[0]
    limits = dict(levels=("process", "limits", "files", "syscalls"), landlock=landlock)
    for name in (
        "imports the course's own tables",
        "reads its parent's memory",
        "reads its parent's command and descriptors",
        "a child goes on",
        "an object equal to everything",
    ):
        assert not judge_code(fill(HOSTILE[name], item), read_tests(item["tests"]), **limits).right, name
    assert judge_code(item["prompt"] + item["solution"], read_tests(item["tests"]), **limits).right


def test_right_solutions_of_every_family_pass():
    with ThreadPoolExecutor(2) as pool:
        items = PROGRAMS + WORLD.programs("train")[::3]
        got = list(pool.map(lambda it: right(it, it["prompt"] + it["solution"].rstrip("\n")), items))
    assert [it["entry_point"] for it, ok in zip(items, got) if not ok] == []


def test_a_solution_passes_that_prints_and_has_helpers():
    item = next(p for p in PROGRAMS if p["entry_point"].startswith("add_"))
    k = item["entry_point"].split("_")[1]
    assert right(
        item,
        f"import math\nK = {k}\nprint('hello')\ndef helper(x): return x+K\n\n"
        f"def add_{k}(n):\n    print(n)\n    return helper(n)\n\n"
        f"if __name__ == '__main__': print(add_{k}(1))",
    )


def test_no_constant_solves_any_task_of_the_exam():
    "No task of the exam expects one value of all its calls"
    from nanochat.tools import read_tests, same

    held = Code(WORLD).test(999)
    assert len(held) >= len(PROGRAMS) - 1
    for item in held:
        values = [v for _, v in read_tests(item["tests"])]
        assert not all(same(v, values[0]) for v in values), item["entry_point"]


def guesses(args):
    "Bodies of one expression that a model might write for these arguments"
    a = args.split(", ")[0]
    constants = [*range(-2, 32), 100]
    if args == "n":
        out = [
            f"n {op} {c}"
            for op in ("+", "-", "*", "//", "%", "**", ">", "<", "==", "!=", ">=", "<=")
            for c in constants
        ]
        out += [f"{c} {op} n" for op in ("-", "//", "**") for c in constants]
        out += [f"n % {m} == {c}" for m in range(2, 13) for c in range(m)] + [
            f"list(range({x}, n + {y}))" for x in (0, 1, 2) for y in (0, 1, 2)
        ]
        return out + [
            "n",
            "n * n",
            "n + n",
            "abs(n)",
            "int(str(n)[-1])",
            "int(str(n)[0])",
            "str(n)",
            "len(str(n))",
        ]
    if args == "a, b":
        out = [f"a {op} b" for op in ("+", "-", "*", "//", "%", "**", ">", "<", "==")] + [
            x.format(f) for x in ("{}(a, b)", "{}(b, a)") for f in ("max", "min", "pow", "divmod")
        ]
        return out + [
            "a",
            "b",
            "b - a",
            "abs(a - b)",
            "abs(a + b)",
            "a + a",
            "b * b",
            "abs(a) - b",
            "a * b + 0",
            "a or b",
            "b or a",
            "a and b",
        ]
    letters = [repr(c) for c in "abcdefghiklmnoprstuwxyz"] + ["'moon'", "'ab'", "''"]
    if args in ("word", "text"):
        out = [
            f.format(a=a, c=c)
            for c in letters
            for f in (
                "{c} in {a}",
                "{a}.count({c})",
                "{a}.startswith({c})",
                "{a}.endswith({c})",
                "{a}.replace({c}, '')",
                "{a}.strip({c})",
                "{a}.find({c})",
                "{a} == {c}",
                "{a}.count({c}) > 1",
                "{a}.replace({c}, '', 1)",
                "{c} in {a}[1:]",
                "{c} in {a}[:2]",
                "{a}.lstrip({c})",
                "{a}.rstrip({c})",
            )
        ]
        out += (
            [f"{a} * {k}" for k in range(12)]
            + [f"len({a}) {op} {k}" for op in ("+", "-", "==", ">", "<") for k in range(6)]
            + [f"{a}[{k}]" for k in range(-3, 4)]
            + [f"{a}[{k}:]" for k in range(-4, 5)]
            + [f"{a}[:{k}]" for k in range(-4, 5)]
        )
        return out + [
            x.format(a)
            for x in (
                "{0}",
                "{0}[::-1]",
                "{0}.upper()",
                "{0}.lower()",
                "{0}.title()",
                "{0}.split()",
                "{0}.split(' ')",
                "len({0}.split())",
                "{0}.count(' ')",
                "len({0})",
                "{0} == {0}[::-1]",
                "{0}[0] == {0}[-1]",
                "list({0})",
                "sorted({0})",
                "''.join(sorted({0}))",
                "{0}.swapcase()",
                "{0}.capitalize()",
                "len(set({0}))",
                "{0}.strip()",
                "''.join(reversed({0}))",
            )
        ]
    out = [
        f.format(a=a, k=k)
        for k in constants
        for f in (
            "{a}[:{k}]",
            "{a}[{k}:]",
            "{a}[-{k}:]",
            "{a}[:-{k}]",
            "{a}.count({k})",
            "{k} in {a}",
            "len({a}) == {k}",
            "len({a}) > {k}",
            "[n + {k} for n in {a}]",
            "[n * {k} for n in {a}]",
            "[n - {k} for n in {a}]",
            "[n for n in {a} if n > {k}]",
            "[n for n in {a} if n < {k}]",
            "[n for n in {a} if n >= {k}]",
            "[n for n in {a} if n == {k}]",
            "[n for n in {a} if n != {k}]",
            "sum({a}) + {k}",
            "{a} + [{k}]",
            "{a} * {k}",
            "[n ** {k} for n in {a}]",
        )
    ]
    out += (
        [f"[n for n in {a} if n % {m} == {r}]" for m in range(2, 8) for r in range(m)]
        + [f"{a}[{k}]" for k in range(-3, 4)]
        + [f"{join!r}.join({a})" for join in ("", " ", "-", ", ", "\n")]
    )
    return out + [
        x.format(a)
        for x in (
            "{0}",
            "{0}[::-1]",
            "sorted({0})",
            "sorted({0}, reverse=True)",
            "sorted({0})[::-1]",
            "max({0})",
            "min({0})",
            "sum({0})",
            "len({0})",
            "max({0}, key=len)",
            "min({0}, key=len)",
            "sorted({0}, key=len)[-1]",
            "sorted({0})[-1]",
            "not {0}",
            "bool({0})",
            "list(set({0}))",
            "sorted(set({0}))",
            "list(dict.fromkeys({0}))",
            "[len(w) for w in {0}]",
            "[n * n for n in {0}]",
            "[n + n for n in {0}]",
            "[x for i, x in enumerate({0}) if x not in {0}[:i]]",
            "[x for i, x in enumerate({0}) if x not in {0}[i+1:]]",
            "[x for x in {0} if {0}.count(x) == 1]",
            "{0}[:-1]",
            "sum({0}) / len({0})",
            "len(set({0}))",
            "[abs(n) for n in {0}]",
            "list({0})",
            "{0} or None",
        )
    ]


def at_random(args, rng):
    "Arguments of this kind that no table holds"

    def word():
        return "".join(rng.choice("abcdefghiklmnoprstuw") for _ in range(rng.randrange(1, 9)))

    def numbers():
        return [rng.randrange(0, 40) for _ in range(rng.randrange(1, 20))]

    def given():
        match args:
            case "n":
                return [rng.randrange(0, 60)]
            case "a, b":
                return [rng.randrange(0, 30), rng.randrange(0, 30)]
            case "word":
                return [rng.choice((word(), (half := word()) + half[::-1]))]
            case "text":
                return [" ".join(word() for _ in range(rng.randrange(0, 5)))]
            # one word longer than all others: of two equally long ones either is the longest
            case "words":
                return [rng.sample([word(), word(), "abcdefghikl"], 3)]
            case _:
                return [numbers()]

    return [given() for _ in range(300)]


WRONG = dict(  # programs that a small model might write, as an attacker found them
    shout="word.swapcase()",
    longest="max(words[:2], key=len)",
    largest="max(numbers[:2])",
    smallest="min([100, *numbers])",
    split_words="text.split(' ') if text else []",
    count_words="text.count(' ')+1 if text else 0",
    total="sum(n for n in numbers if n > 0)",
    same_backwards="word[:2] == word[-2:][::-1]",
    is_odd="n in [1, 3, 5, 7, 9, 13, 29, 31]",
    without_c="word.strip('c').replace('c', '', 1)",
    add="sum([a]*1) + len(range(b))",
    multiply="sum(a for _ in range(b))",
)


@pytest.mark.parametrize("name", WRONG)
def test_programs_that_once_passed_are_wrong(name):
    item = next(p for p in PROGRAMS if p["entry_point"] == name)
    head = item["prompt"]
    assert not right(item, f"{head}    return {WRONG[name]}") and right(item, head + item["solution"])


@pytest.mark.parametrize(
    "text",
    [
        "reverse = lambda word: word[::-1]",
        "def  reverse(word): return word[::-1]",
        "```python\ndef reverse(word):\n    return word[::-1]\n```",
        "```\nreverse = lambda w: ''.join(reversed(w))\n```\n",
    ],
)
def test_a_solution_may_have_other_forms(text):
    item = next(p for p in PROGRAMS if p["entry_point"] == "reverse")
    assert right(item, text) and not right(item, text.replace("[::-1]", "").replace("reversed", "list"))


def value(function, given):
    try:
        return function(*given)
    except Exception as e:
        return type(e)


def test_who_passes_the_exam_s_calls_has_solved_the_task():
    "No other solution and no one-line guess passes, unless it computes the same everywhere"
    import random
    from nanochat.tools import read_tests, same

    rng, faults, tried = random.Random(0), [], 0
    args_of = {
        p["entry_point"]: re.search(r"\((.*?)\)", p["prompt"])[1] for p in PROGRAMS + WORLD.programs("train")
    }
    bodies = {
        args: guesses(args)
        + [
            p["solution"].strip().removeprefix("return ")
            for p in PROGRAMS + WORLD.programs("train")
            if args_of[p["entry_point"]] == args
        ]
        for args in set(args_of.values())
    }
    everywhere = {args: at_random(args, rng) for args in bodies}
    functions = {
        (args, body): eval(f"lambda {args}: {body}") for args, tries in bodies.items() for body in tries
    }
    for item in Code(WORLD).test(999):
        args, name = args_of[item["entry_point"]], item["entry_point"]
        true = functions[args, item["solution"].strip().removeprefix("return ")]
        asked = [(eval(f"({call[len(name) + 1 : -1]},)"), want) for call, want in read_tests(item["tests"])]
        for body in dict.fromkeys(bodies[args]):
            guess, tried = functions[args, body], tried + 1
            if not all(same(value(guess, given), want) for given, want in asked):
                continue
            if any(not same(value(guess, g), value(true, g)) for g in everywhere[args]):
                faults.append((name, body))
    assert tried > 20_000 and faults == []


def test_types_are_compared_too():
    from nanochat.tools import judge_code

    assert not judge_code("def f(n): return n % 2 == 0", [("f(2)", 1)]).right
    assert not judge_code("def f(n): return float(n)", [("f(2)", 2)]).right
    assert not judge_code("def f(n): return (n,)", [("f(2)", [2])]).right
    assert not judge_code("def f(n): return [[True]]", [("f(2)", [[1]])]).right
    assert not judge_code("def f(n): return {True: 0}", [("f(2)", {1: 0})]).right
    values = [
        0,
        -5,
        10**40,
        True,
        None,
        "",
        "é\n\ud800\0",
        b"\0\xff",
        0.1,
        float("inf"),
        2j,
        [],
        [1, [2, ()]],
        {"b": 1, "a": {2: [3]}},
        {1, 2},
        frozenset({("a",)}),
    ]
    assert judge_code("def f(x): return x", [(f"f({v!r})", v) for v in values]).why == ""


MADE_UP = [
    "",
    "[",
    "5",
    "null",
    "NaN",
    '"ab"',
    "[]",
    '["int"]',
    '["int",5]',
    '["int","zz"]',
    '["int",""]',
    '["Yes",[]]',
    '["str","zz"]',
    '["str","ff"]',
    '["str",[]]',
    "[" * 5000,
    '["list",[' * 2000 + "]]" * 2000,
    '["set",[["list",[]]]]',
    '["float","0x1p99999"]',
    '["float",1.5]',
    '{"a":1,"b":2}',
    '["dict",[["int","1"]]]',
    '["dict",{"a":"b"}]',
    '["dict",[[["list",[]],["True"]]]]',
    '["tuple"]',
    '["True","x"]',
    '[["True"],[]]',
    '["complex",[["str","61"],["str","61"]]]',
    '["raised","zz"]',
    '["raised","61"]',
    '["type",["True"]]',
    '["nothing"]',
    '["object","61"]',
]


@pytest.mark.parametrize("text", MADE_UP)
def test_what_is_no_packed_value_is_one_kind_of_error(text):
    from nanochat.tools import unpack

    with pytest.raises(ValueError):
        unpack(text)


def test_random_noise_never_breaks_the_reader():
    import random
    from nanochat.tools import pack, unpack

    rng, seen = random.Random(0), [0, 0]
    for _ in range(20000):
        text = list(pack([1, "a", {2: (None, 0.5)}, {3}]))
        for _ in range(rng.randrange(1, 5)):
            text[rng.randrange(len(text))] = rng.choice('[]",0123abintlstu{}:')
        try:
            pack(unpack("".join(text)))
            seen[0] += 1
        except (ValueError, TypeError):
            seen[1] += 1
    assert min(seen) > 100


def test_answers_too_large_or_too_deep_to_show_are_only_wrong():
    from nanochat.tools import judge_code

    for answer in (
        "10**9000",
        "'x'*30000",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "{(((((((1,),),),),),),): 2}",
        "{frozenset({1, 2}), 3}",
    ):
        got = judge_code(f"def f(): return {answer}", [("f()", {1: 2})])
        assert not got.right and len(got.why) < 200, got


def test_later_questions_come_after_earlier_answers():
    "A program that sees a question sees no other"
    from nanochat.tools import judge_code

    spy = (
        "import os, select\nseen = []\ndef f(n):\n for fd in range(3, 32):\n"
        "  if select.select([fd], [], [], 0)[0]: seen.append(os.read(fd, 99))\n return n\n"
        "def g(): return seen"
    )
    got = judge_code(
        spy.replace("range(3, 32)", "[f for f in range(3, 32) if os.path.exists('/') and ok(f)]")
        + "\ndef ok(fd):\n try: os.fstat(fd); return True\n except OSError: return False\n",
        [("f(1)", 1), ("f(2)", 2), ("g()", [])],
    )
    assert got.right, got.why


def test_tests_are_taken_apart_without_running_them():
    from nanochat.tools import read_tests

    assert read_tests("assert f([1, -2], k='a') == {'b': (1,)}\n") == [("f([1, -2], k='a')", {"b": (1,)})]
    for other in (
        "",
        "x = 1",
        "assert f(1)",
        "assert f(g(1)) == 2",
        "assert f(1) == g(2)",
        "assert f(1) != 2",
        "assert a.f(1) == 2",
        "assert f(__import__('os').getpid()) == 1",
        "import os\nassert f(1) == 2",
    ):
        with pytest.raises(ValueError):
            read_tests(other)


def humaneval(shared):
    return [json.loads(l) for l in gzip.open(shared / "humaneval" / "HumanEval.jsonl.gz", "rt")]


def test_humaneval_by_both_ways(shared):
    "The first forty: solutions pass, what solves nothing does not, however the tests are run"
    rows = humaneval(shared)[:40]
    hostile = [
        HOSTILE[n]
        for n in (
            "an object equal to everything",
            "exits before the tests",
            "writes a guard's words to every descriptor",
            "AssertionError replaced",
            "always None",
        )
    ]

    def judged(row):
        item = dict(
            prompt=row["prompt"],
            entry_point=row["entry_point"],
            tests=row["test"] + f"\ncheck({row['entry_point']})\n",
        )
        return (
            row["task_id"],
            right(item, row["prompt"] + row["canonical_solution"]),
            [right(item, fill(h, item)) for h in hostile],
        )

    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(judged, rows))
    assert [(t, r, h) for t, r, h in got if not r or any(h)] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_fail_where_tests_must_be_run(name):
    from nanochat.tools import judge_check

    tests = "def check(candidate):\n    for x in range(2, 5): assert abs(candidate(x) - thrice(x)) < 1e-6\n"
    program = fill(HOSTILE[name], dict(entry_point="three"))
    assert not judge_check(
        program, tests, "three", "def thrice(x): return 3*x\ndef three(x):\n    'x times three'\n", seconds=1
    ).right


def test_a_right_solution_passes_where_tests_must_be_run():
    from nanochat.tools import judge_check

    for tests in (
        "def check(candidate):\n    for x in range(2, 5): assert abs(candidate(x) - thrice(x)) < 1e-6\n",
        "for x in range(3): assert three(x) == 3*x\n",
        "def check(f):\n    assert f(x=2) == 6\n    assert f([1]) == [1]*3\n\ncheck(three)\n",
        "import math\nassert math.isinf(three(math.inf))\nassert three(10**500) == 3*10**500",
    ):
        assert (
            judge_check("def three(x): return 3*x", tests, "three", "def thrice(x): return 3*x\n").why == ""
        ), tests
        assert not judge_check(
            "def three(x): return 4*x",
            tests.replace("math.isinf(three(math.inf))", "True"),
            "three",
            "def thrice(x): return 3*x\n",
        ).right, tests


def test_a_helper_of_the_given_part_cannot_be_replaced():
    from nanochat.tools import judge_check

    given = (
        "def poly(xs, x): return sum(c*x**i for i, c in enumerate(xs))\n\ndef zero(xs):\n"
        "    'find x with poly(xs, x) = 0'\n"
    )
    tests = "def check(candidate): assert abs(poly([1, 2], candidate([1, 2]))) < 1e-4"
    liar = "def poly(xs, x): return 0\ndef zero(xs): return 7"
    assert not judge_check(liar, tests, "zero", given).right
    assert judge_check("def zero(xs): return -xs[0]/xs[1]", tests, "zero", given).right


def test_the_switch_refuses_where_levels_are_missing():
    "NANOCHAT_JUDGE=refuse: one clear error; warn: a warning, once"
    code = """import warnings
from nanochat import tools
tools.isolation = lambda: dict.fromkeys(tools.LEVELS, False)
try: print(tools.judge_code("def f(): return 1", [("f()", 1)]).right)
except Exception as e: print(type(e).__name__, e)"""

    def said(value):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(NANOCHAT_JUDGE=value),
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert said("warn") == "True\n"
    assert said("refuse").startswith("UserError no code is judged without files and syscalls")
    assert said("maybe").startswith("UserError NANOCHAT_JUDGE=maybe")
