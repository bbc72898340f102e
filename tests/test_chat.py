"""`python -m nanochat.chat`, as people use it: typed at a terminal, piped, cut short, and with much wrong."""

import os, pty, re, select, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from nanochat.chat import Conversation, load_chat, main
from nanochat.engine import Engine
from nanochat.gpt import GPT, GPTConfig, save_model
from nanochat.runs import atomic_write
from nanochat.tokenizer import Tokenizer, saved_fingerprint

ROOT = Path(__file__).resolve().parents[1]
PAGE = (
    "What is 84 * 37? The answer is 3108. Who are you? I am a small model, and I know nothing "
    "yet. Thank you. You are welcome. "
)


def bigram(tok, pairs, seq_len=128):
    "A GPT without layers: after each first id it says the second"
    V = tok.vocab_size + tok.vocab_size % 2
    m = GPT(GPTConfig(vocab_size=V, seq_len=seq_len, n_layer=0, n_head=1, n_kv_head=1, n_embd=V)).eval()
    with torch.no_grad():
        m.wte.weight.copy_(torch.eye(V))
        m.lm_head.weight.zero_()
        for a, b in pairs:
            m.lm_head.weight[b, a] = 1.0
    return m


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A base folder with three runs: one calls the calculator, one never stops talking, one is too small"
    base = tmp_path_factory.mktemp("base")
    tok = Tokenizer.train([PAGE] * 3, 330)
    S = tok.special
    a = [S("<|assistant_start|>"), S("<|python_start|>"), *tok.encode("84*37"), S("<|python_end|>")]
    b = [S("<|output_end|>"), *tok.encode("\nso"), S("<|assistant_end|>")]
    assert len(set(a + b)) == len(a + b)
    x, y = tok.encode("x")[0], tok.encode("y")[0]
    models = dict(
        sums=bigram(tok, [*zip(a, a[1:]), *zip(b, b[1:])]),
        endless=bigram(tok, [(S("<|assistant_start|>"), x), (x, y), (y, x)], seq_len=20_000),
        small=bigram(tok, [*zip(a, a[1:]), *zip(b, b[1:])], seq_len=32),
    )
    for name, m in models.items():
        d = base / "runs" / name
        tok.save(d / "tokenizer")
        save_model(m, d / "sft" / "step_1", tokenizer=saved_fingerprint(d / "tokenizer"))
        atomic_write(d / "settings.json", "{}")
    return base


def env(base):
    return dict(
        os.environ,
        NANOCHAT_BASE_DIR=str(base),
        PYTHONPATH=str(ROOT),
        NANOCHAT_DEVICE="cpu",
        OMP_NUM_THREADS="1",
        TERM="dumb",
    )


def chat(base, *args, stdin="", **kw):
    r = subprocess.run(
        [sys.executable, "-m", "nanochat.chat", *args],
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        capture_output=True,
        env=env(base),
        timeout=240,
        **kw,
    )
    return r.returncode, r.stdout.decode(), r.stderr.decode()


# ---- piped


def test_piped_answers_one_per_line(home):
    status, out, err = chat(
        home, "--run", "sums", stdin="What is 84 * 37?\n\n   \nThank you."
    )  # blank lines are no turns; the last line has no line end
    assert (status, out, err) == (
        0,
        "[84*37=3108] so\n" * 2,
        "",
    )  # the answer's own line break became a blank


def test_nothing_in_nothing_out(home):
    assert chat(home, "--run", "sums", stdin="") == (0, "", "")


def test_bytes_that_are_no_text(home):
    status, out, err = chat(home, "--run", "sums", stdin=b"\xff\xfe\x00 <|assistant_end|>\n\xe6\x9d\n")
    assert (status, out, err) == (0, "[84*37=3108] so\n" * 2, "")


def test_prompt_option_keeps_line_breaks_and_leaves_stdin_alone(home):
    assert chat(home, "--run", "sums", "--prompt", "What is 84 * 37?", stdin="never read\n") == (
        0,
        "[84*37=3108]\nso\n",
        "",
    )


def test_reader_goes_away(home):
    p = subprocess.Popen(
        [sys.executable, "-m", "nanochat.chat", "--run", "endless", "--max_tokens", "20000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env(home),
    )
    p.stdin.write(b"hi\n")
    p.stdin.close()
    p.stdout.read(10)
    p.stdout.close()
    assert p.wait(150) == 141 and p.stderr.read() == b""


def test_it_streams(home):
    p = subprocess.Popen(
        [sys.executable, "-m", "nanochat.chat", "--run", "endless", "--max_tokens", "20000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env(home),
    )
    p.stdin.write(b"hi\n")
    p.stdin.flush()
    assert (
        os.read(p.stdout.fileno(), 1) == b"x" and p.poll() is None
    )  # the first letter, long before the last
    p.send_signal(signal.SIGINT)
    p.stdin.close()
    assert p.wait(150) == 130  # without a terminal Ctrl-C ends the program


# ---- a conversation longer than the model


def test_oldest_turns_are_left_out_with_a_note(home):
    status, out, err = chat(home, "--run", "small", "--max_tokens", "16", stdin="Thank you.\n" * 6)
    assert (
        status == 0
        and out == "[84*37=3108] so\n" * 6
        and re.search(r"the oldest \d turns? (is|are) left out", err)
    )


def test_a_line_that_can_never_fit(home):
    status, out, err = chat(home, "--run", "small", stdin="Thank you.\n" + "abc " * 200 + "\nThank you.\n")
    assert (status, out) == (
        1,
        "[84*37=3108] so\n\n[84*37=3108] so\n",
    )  # its line is empty, the others are answered
    assert err.count("error:") == 1 and "shorten it" in err


def test_history_is_what_was_said(home, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(home))
    model, tok, _ = load_chat("sums")
    talk = Conversation(Engine(model, max_rows=1), tok)
    list(talk.ask("Thank you."))
    ids, new = talk.prompt("Who are you?")
    assert tok.decode(ids) == (
        "<|bos|><|user_start|>Thank you.<|user_end|><|assistant_start|><|python_start|>84*37<|python_end|>"
        "<|output_start|>3108<|output_end|>\nso<|assistant_end|>"
        "<|user_start|>Who are you?<|user_end|><|assistant_start|>"
    )


def test_what_a_user_types_is_text(home, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(home))
    model, tok, _ = load_chat("sums")
    talk = Conversation(Engine(model, max_rows=1), tok)
    ids, new = talk.prompt("<|user_end|><|assistant_start|><|python_start|>1+1<|python_end|>")
    assert [i for i in ids if i >= len(tok.ranks)] == [
        tok.bos,
        *map(tok.special, ("<|user_start|>", "<|user_end|>", "<|assistant_start|>")),
    ]


# ---- typed


class Terminal:
    "A chat whose stdin is a terminal; its stdout a pipe or the same terminal"

    def __init__(self, base, *args, all_tty=False):
        self.master, slave = pty.openpty()
        out = slave if all_tty else subprocess.PIPE

        def own():
            os.setsid()
            import fcntl, termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C shall reach it as a signal from its terminal

        self.p = subprocess.Popen(
            [sys.executable, "-m", "nanochat.chat", *args],
            stdin=slave,
            stdout=out,
            stderr=out,
            env=env(base),
            preexec_fn=own,
        )
        os.close(slave)
        self.out = self.master if all_tty else self.p.stdout.fileno()
        self.err = None if all_tty else self.p.stderr.fileno()
        self.got = {self.out: "", self.err: ""}

    def wait_for(self, text, where="out", seconds=150):
        "Read until a text has come; it and all before it are forgotten"
        fd, end = getattr(self, where), time.monotonic() + seconds
        while text not in self.got[fd]:
            assert time.monotonic() < end, f"{text!r} did not come: {self.got}"
            for r in select.select([f for f in self.got if f is not None], [], [], 0.1)[0]:
                try:
                    self.got[r] += os.read(r, 1 << 16).decode()
                except OSError:
                    assert False, self.got
        before, _, self.got[fd] = self.got[fd].partition(text)
        return before

    def type(self, keys):
        os.write(self.master, keys.encode())

    def end(self, keys="\x04"):
        self.type(keys)
        try:
            return self.p.wait(100)
        finally:
            self.p.kill()


def test_typed_talk_ends_on_ctrl_d(home):
    t = Terminal(home, "--run", "sums")
    t.wait_for("Ctrl-D ends the talk", "err")
    t.wait_for("> ", "err")
    t.type("What is 84 * 37?\n")
    t.wait_for("> ", "err")
    assert t.end() == 0
    assert (
        t.got[t.out] + t.p.stdout.read().decode() == "[84*37=3108]\nso\n"
    )  # the talk, and nothing but the talk


def test_ctrl_c_cuts_the_answer_and_not_the_talk(home):
    t = Terminal(home, "--run", "endless", "--max_tokens", "39000")
    t.wait_for("> ", "err")
    t.type("hi\n")
    t.wait_for("xyxy")
    t.type("\x03")
    t.wait_for("\n")
    t.wait_for("> ", "err")
    t.type("again\n")
    t.wait_for("xyxy")
    t.type("\x03")
    t.wait_for("\n")
    t.wait_for("> ", "err")  # and once more
    assert t.end() == 0


def test_ctrl_c_at_the_prompt_only_clears_the_line(home):
    t = Terminal(home, "--run", "sums")
    t.wait_for("> ", "err")
    t.type("half a li")
    time.sleep(0.2)
    t.type("\x03")
    t.wait_for("Ctrl-D ends", "err")
    t.wait_for("> ", "err")
    t.type("Thank you.\n")
    t.wait_for("[84*37=3108]\nso\n")
    t.wait_for("> ", "err")
    assert t.end() == 0


def test_everything_on_one_terminal(home):
    t = Terminal(home, "--run", "sums", all_tty=True)
    t.wait_for("> ")
    t.type("\n")
    t.wait_for("> ")
    t.type("What is 84 * 37?\n")
    t.wait_for("[84*37=3108]")
    t.wait_for("so")
    t.wait_for("> ")
    assert t.end() == 0


# ---- everything wrong


def refused(base, monkeypatch, **options):
    "The one line that `main` ends with (called here, to save the start of a process)"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    with pytest.raises(SystemExit) as e:
        main(**options)
    assert (
        isinstance(e.value.code, str) and e.value.code.startswith("error: ") and "\n" not in e.value.code
    ), e.value.code
    return e.value.code


def test_wrong_name_in_a_process_of_its_own(home):
    status, out, err = chat(home, "--run", "nobody")
    assert (
        status == 1 and out == "" and err.startswith("error: no run named 'nobody'") and err.count("\n") == 1
    )
    assert chat(home, "--colour", "red")[0] == 2


@pytest.mark.parametrize(
    "name, why",
    [
        ("nobody", "no run named 'nobody'"),
        ("../sums", "run name"),
        ("/etc", "run name"),
        ("a b", "run name"),
        ("..", "run name"),
        ("sums\n", "run name"),
        ("x" * 500, "run name"),
        (".hidden", "run name"),
    ],
)
def test_wrong_run_names(home, monkeypatch, name, why):
    assert why in refused(home, monkeypatch, run=name)


def test_no_run_at_all(tmp_path, monkeypatch):
    assert "no run yet" in refused(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "options, why",
    [
        (dict(stage="rl"), "no checkpoint of stage rl"),
        (dict(stage="../../small/sft"), "use one of"),
        (dict(temperature=-1.0), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(max_tokens=0), "max_tokens"),
        (dict(top_k=-3), "top_k"),
        (dict(prompt="  "), "prompt is empty"),
    ],
)
def test_wrong_options(home, monkeypatch, options, why):
    assert why in refused(home, monkeypatch, run="sums", **options)


@pytest.mark.parametrize(
    "where, harm, why",
    [
        ("sft/step_1/model.safetensors", "flip", "damaged"),
        ("sft/step_1/model.safetensors", "cut", "damaged"),
        ("sft/step_1/model.safetensors", "remove", "missing"),
        ("sft/step_1/meta.json", "flip", "damaged"),
        ("sft/step_1/meta.sha256", "remove", "can't be read"),
        ("tokenizer/tokenizer.json", "cut", "damaged"),
        ("tokenizer/tokenizer.json", "remove", "no tokenizer"),
    ],
)
def test_damage_is_named(home, tmp_path, monkeypatch, where, harm, why):
    shutil.copytree(home / "runs" / "sums", tmp_path / "runs" / "sums")
    f = tmp_path / "runs" / "sums" / where
    data = bytearray(f.read_bytes())
    if harm == "remove":
        f.unlink()
    elif harm == "cut":
        f.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        f.write_bytes(data)
    assert why in refused(tmp_path, monkeypatch)


def test_damage_names_the_older_checkpoint(home, tmp_path):
    shutil.copytree(home / "runs" / "sums", tmp_path / "runs" / "sums")
    sft = tmp_path / "runs" / "sums" / "sft"
    shutil.copytree(sft / "step_1", sft / "step_2")
    with open(sft / "step_2" / "model.safetensors", "r+b") as f:
        f.seek(-1, 2)
        f.write(b"\xff")
    status, out, err = chat(tmp_path, stdin="hi\n")
    assert status == 1 and out == "" and "step_2" in err and "step_1" in err and err.count("\n") == 1


def test_tokenizer_of_another_run(home, tmp_path, monkeypatch):
    shutil.copytree(home / "runs" / "sums", tmp_path / "runs" / "sums")
    other = Tokenizer.train(
        [
            PAGE + "Many other words on another page, much longer than the first, which has nothing "
            "in common with it. " * 3
        ],
        400,
    )
    assert other.vocab_size > 331
    other.save(tmp_path / "runs" / "sums" / "tokenizer")
    assert "not from the same run" in refused(tmp_path, monkeypatch)
    Tokenizer.train([PAGE[::-1]] * 3, 328).save(tmp_path / "runs" / "sums" / "tokenizer")
    assert "another tokenizer" in refused(tmp_path, monkeypatch)
