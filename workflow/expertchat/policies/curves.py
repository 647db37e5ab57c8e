"""TensorBoard logs of finished policies: the same bytes for the same figures.

TensorBoard's own writer puts the time, the host's name and the process id into each file. Here the time
of a figure is its step.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FILE = "events.out.tfevents.0.ppo"  # TensorBoard looks for "tfevents" in the name


def write_curves(steps: pd.DataFrame, folder: Path) -> None:
    """Writes all columns of `steps` but `step` as scalars "ppo/<column>" to a new folder."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir()
    with (folder / FILE).open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        for row in steps.to_dict("records"):
            step = row.pop("step")
            values = [
                Summary.Value(tag=f"ppo/{name}", simple_value=value) for name, value in row.items()
            ]
            event = Event(wall_time=step, step=step, summary=Summary(value=values))
            writer.write(event.SerializeToString())
