"""Event files' records as TensorBoard's own protocol buffers and writer make them: test/golden/tensorboard-events.json.

Needs tensorboard (2.21.0 was used); run from the repository's root."""

import base64
import io
import json

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


class Kept(io.BytesIO):
    def close(self):
        pass


def record(event):
    kept = Kept()
    RecordWriter(kept).write(event.SerializeToString(deterministic=True))
    return base64.b64encode(kept.getvalue()).decode()


def summary(*values):
    return summary_pb2.Summary(value=values)


def metadata(name, content=b"", data_class=0):
    data = summary_pb2.SummaryMetadata.PluginData(plugin_name=name, content=content)
    return summary_pb2.SummaryMetadata(plugin_data=data, data_class=data_class)


Event, Value = event_pb2.Event, summary_pb2.Summary.Value
SECONDS = 1700000000.25

start = plugin_data_pb2.SessionStartInfo(group_name="a run", start_time_secs=SECONDS)
start.hparams["count"].number_value = 0
start.hparams["model"].string_value = "größe"
start.hparams["yes"].bool_value = False

text = tensor_pb2.TensorProto(
    dtype=types_pb2.DT_STRING,
    string_val=["**p**\n\nä".encode()],
    tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
)

golden = {
    "version": record(Event(wall_time=SECONDS, file_version="brain.Event:2")),
    "restart": record(
        Event(
            wall_time=SECONDS,
            step=300,
            session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
        )
    ),
    "scalars": record(
        Event(
            wall_time=SECONDS,
            step=2**40 + 5,
            summary=summary(
                Value(tag="train/loss", simple_value=0.1), Value(tag="train/gradNorm", simple_value=0.0)
            ),
        )
    ),
    "text": record(
        Event(
            wall_time=SECONDS,
            step=7,
            summary=summary(
                Value(
                    tag="sample",
                    tensor=text,
                    metadata=metadata("text", data_class=summary_pb2.DATA_CLASS_TENSOR),
                )
            ),
        )
    ),
    "recipe": record(
        Event(
            wall_time=SECONDS,
            summary=summary(
                Value(
                    tag="_hparams_/session_start_info",
                    metadata=metadata(
                        "hparams",
                        plugin_data_pb2.HParamsPluginData(session_start_info=start).SerializeToString(
                            deterministic=True
                        ),
                    ),
                )
            ),
        )
    ),
}

with open("test/golden/tensorboard-events.json", "w") as file:
    json.dump(golden, file, indent=1)
    file.write("\n")
