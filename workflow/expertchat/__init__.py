"""ExpertChat: language models talk, rate each other, and are tuned on the ratings.

Three layers, imports one way: rules say what depends on what, scripts parse and publish,
this library does the work and never imports Snakemake.
"""

__version__ = "0.1.0"
