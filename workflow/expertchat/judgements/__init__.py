"""Stage judgements: whose replies to the same contexts are better, by a judge that trained no policy.

`pairing` puts replies side by side; `scoring` judges them by a reward model and `asking` by a model that
is asked; `wins` counts who wins.
"""
