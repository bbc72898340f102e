"chapter 11's `launch` for any command: launch.py PROCESSES -m MODULE ..., or a script and its arguments"

import sys
from nanochat.distributed import launch

sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
