__version__ = "0.1.0"

import signal
import sys

# `python -m nanochat.X`: until its main takes over, Ctrl-C ends it as the shell means it,
# and not with a traceback from torch's imports
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
