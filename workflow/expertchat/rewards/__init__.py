"""Stage rewards: a reward model learns from ratings which of two replies is better.

`candidates` reads rated replies, `preferences` makes pairs of them, `training` trains on the pairs,
`evaluation` measures the result, and `reward_model.make_reward_model` is what the script calls.
"""
