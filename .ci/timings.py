"""How long the tests take: parts, notebooks, files and the slowest tests of a whole `bash speedrun.sh test`.

    python .ci/timings.py       wants two quiet cores for half an hour; kept in bench/results/test_times.json

Two notebooks run at a time, and three groups of tests: a file's seconds are those by the clock, while
others ran beside it. A notebook's are `nbdev_test --timing`'s.
"""

import argparse, json, os, re, sys
from pathlib import Path

here = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(here), str(here / "bench")]
from rehearsal import HEADING, timed

OUT = here / "bench" / "results" / "test_times.json"
NOTEBOOK = re.compile(r"(\w+\.ipynb): (\d+) secs$")
FILE = re.compile(r"(test_\w+\.py): (\d+) secs$")
TEST = re.compile(r"([\d.]+)s (setup|call|teardown) +(\S.*)$")
SLOWEST = 30


class Listener:
    "Takes the lines of the tests, and keeps the seconds in them"

    def __init__(self):
        self.part, self.books, self.files, self.tests = "before", {}, {}, []

    def __call__(self, line):
        if heading := HEADING.match(line):
            self.part = heading[1]
        elif book := NOTEBOOK.match(line):
            self.books.setdefault(self.part, {})[book[1]] = int(book[2])
        elif file := FILE.match(line):
            self.files[file[1]] = int(file[2])
        elif test := TEST.match(line):
            self.tests.append(dict(seconds=float(test[1]), test=test[3], phase=test[2]))

    def slowest(self):
        return sorted(self.tests, key=lambda test: -test["seconds"])[:SLOWEST]


def measure(command):
    "The status of a command that tests, and the seconds that it took and told of"
    heard = Listener()
    found = timed(command, heard)
    status, parts = found.pop("status"), found.pop("steps")
    return status, dict(found, parts=parts, **heard.books, files=heard.files, slowest_tests=heard.slowest())


def main():
    from nanochat.runs import atomic_write
    from nanochat.runtime import provenance

    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    command, load = ["bash", "speedrun.sh", "test"], os.getloadavg()[0]
    status, found = measure(command)
    if status:
        sys.exit("error: a test failed; nothing is kept")
    result = dict(command=" ".join(command), **found, load_before=load, versions=provenance())
    atomic_write(OUT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
