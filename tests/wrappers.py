"""The wrapped models whose language model the installed Transformers loads by itself: prints their types as JSON."""

import json

from transformers import CONFIG_MAPPING, AutoModelForCausalLM

loaded = (name for name, config in CONFIG_MAPPING.items() if config in AutoModelForCausalLM._model_mapping)
print(json.dumps([name for name in loaded if "text_config" in CONFIG_MAPPING[name].sub_configs]))
