"""Stage rewards: a reward model learns which of two replies is better.

`rated_pairs` makes pairs of rated replies, `encoding` their token ids, and `data` both, from ratings or
from stage preferences. `scoring` reads all replies to a context as one row, `training` trains on the
pairs, with `length_head` as an option, `ensemble` cross-fits and combines, `evaluation` measures the
result and its scale, and `reward_model.make_reward_model` is what the script calls.
"""
