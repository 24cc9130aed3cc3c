"""eegvlm: raw overnight EEG in, a vision-language model that stages sleep out."""

import logging

__version__ = "0.1.0"

# Where it is installed, transformers and peft import it, and on some CPUs it complains to people who never
# asked for 4 bits. Here, because it must be said before either of them is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
