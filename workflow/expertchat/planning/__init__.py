"""What the jobs of an experiment need, before anything is spent: memory by part, GPUs, tokens and hours.

    work      the tokens that a job reads, draws and is trained on, from its settings
    models    its models without weights, from configurations; shapes.yaml has those of well-known ones
    machine   what the job is planned for
    memory    bytes by part, on the fullest GPU, from the three above
    hours     seconds, corrected by finished jobs of the same kind
    jobs      all of that for each job of a plan
    lines     the table, and plan.json

Nothing here loads weights or touches a GPU: models stand on PyTorch's meta device.
"""
