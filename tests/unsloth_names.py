"""What the installed Unsloth would load: `python -m tests.unsloth_names ID…` prints `{id: [in 4 bits, in 16]}`."""

import json
import sys

from unsloth.models.loader_utils import get_model_name

print(json.dumps({name: [get_model_name(name, load_in_4bit=four) for four in (True, False)] for name in sys.argv[1:]}))
