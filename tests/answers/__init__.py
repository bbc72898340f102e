"Answers to the exercises, wrong and right, which the graders' banks do not hold: a module for each chapter"
from collections.abc import Callable
from dataclasses import dataclass

@dataclass
class Answer:
    exercise: str            # its name in the grader
    label: str               # what is special about it
    function: Callable
    right: bool
    named: str | None = None # the known mistake as which a wrong one must be recognised

class Answers:
    "Collects the answers of a chapter"
    def __init__(self): self.all = []

    def add(self, exercise, label, right, named):
        def keep(function):
            self.all.append(Answer(exercise, label or function.__name__, function, right, named))
            return function
        return keep

    def wrong(self, exercise:str, label:str|None=None, named:str|None=None):
        "A decorator for an answer that must be refused"
        return self.add(exercise, label, False, named)

    def right(self, exercise:str, label:str|None=None):
        "A decorator for an answer that must be accepted"
        return self.add(exercise, label, True, None)
