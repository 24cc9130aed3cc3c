"""eegvlm: raw overnight EEG in, a vision-language model that stages sleep out."""

__version__ = "0.1.0"
