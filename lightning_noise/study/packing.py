"""What a run left as attributes of an Optuna trial, and back.

Readings are packed: a value takes some eight characters. They are cut into pieces, because a
database may bound the length of an attribute.
"""

import base64
import json
import zlib
from array import array
from collections.abc import Mapping
from typing import Any

from lightning_noise.study.task import Record, RunKey, Series

RUN = "run"
READINGS = "readings:"  # before the number of a piece
LONGEST = 30_000  # characters of a piece; MySQL has 65 535 bytes for an attribute


def pack(key: RunKey, record: Record, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a run."""
    readings = []
    for (on, metric), series in record.readings.items():
        readings.append([on, metric, _packed("q", series.steps), _packed("d", series.values)])
    text = json.dumps(readings)
    pieces = range(0, len(text), LONGEST)
    run = {
        "key": list(key),
        "parameters": dict(parameters),
        "trained": record.trained,
        "ended": record.ended,
        "loss_failed": record.loss_failed,
        "noise": record.noise,
        "warning": record.warning,
        "pieces": len(pieces),
    }
    attributes: dict[str, Any] = {RUN: run}
    for number, begin in enumerate(pieces):
        attributes[f"{READINGS}{number}"] = text[begin : begin + LONGEST]
    return attributes


def unpack(attributes: Mapping[str, Any]) -> tuple[RunKey, Record]:
    """The run of some attributes."""
    run = attributes[RUN]
    pieces = [attributes[f"{READINGS}{number}"] for number in range(run["pieces"])]
    readings = {}
    for on, metric, steps, values in json.loads("".join(pieces)):
        readings[on, metric] = Series(tuple(_unpacked("q", steps)), tuple(_unpacked("d", values)))
    record = Record(
        trained=run["trained"],
        ended=run["ended"],
        readings=readings,
        loss_failed=run["loss_failed"],
        noise=run["noise"],
        warning=run["warning"],
    )
    return RunKey(*run["key"]), record


def is_whole(attributes: Mapping[str, Any]) -> bool:
    """Whether these are the attributes of a run, with all its readings."""
    run = attributes.get(RUN)
    if run is None:
        return False
    return all(f"{READINGS}{number}" in attributes for number in range(run["pieces"]))


def _packed(kind: str, numbers: tuple[Any, ...]) -> str:
    content = array(kind, numbers)
    if _BIG_ENDIAN:
        content.byteswap()
    return base64.b85encode(zlib.compress(content.tobytes(), 9)).decode()


def _unpacked(kind: str, text: str) -> "array[Any]":
    content = array(kind)
    content.frombytes(zlib.decompress(base64.b85decode(text)))
    if _BIG_ENDIAN:
        content.byteswap()
    return content


_BIG_ENDIAN = array("H", [1]).tobytes() == b"\0\1"
