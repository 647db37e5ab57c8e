"""Stage rewards: a reward model learns from ratings which of two replies is better.

`candidates` reads rated replies, `preferences` makes pairs of them, `scoring` reads all replies to a
context as one row, `training` trains on the pairs and cross-fits, `evaluation` measures the result and
its scale, and `reward_model.make_reward_model` is what the script calls.
"""
