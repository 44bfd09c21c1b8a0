"""What generated requests cannot know: a CID that is the CID of the body, and the names of what a service has stored.

Loaded by schemathesis. Only requests that are meant to be good are touched, and only every other one, so that names of
nothing are asked for too. `CONTRACT_STORED` is a JSON object that `run` leaves in the environment.
"""

import itertools
import json
import os

import blake3
import schemathesis
from schemathesis.generation.modes import GenerationMode

STORED = json.loads(os.environ["CONTRACT_STORED"])
turns = {}


def turn(label, of=2):
    """Which turn it is for requests of this operation, round and round."""
    return next(turns.setdefault(label, itertools.cycle(range(of))))


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    """A name is bounded in bytes; a schema counts characters."""
    return len(str((path_parameters or {}).get("actor", "")).encode("utf-8", "surrogatepass")) <= 256


@schemathesis.hook
def before_call(context, case, kwargs):
    generation = case.meta.generation if case.meta else None
    if generation is None or generation.mode != GenerationMode.POSITIVE:
        return
    label = case.operation.label
    if label.startswith("PUT"):
        # A third keeps its random CID.
        which = turn(label, 3)
        if which == 0:
            stored = STORED["snapshot" if "snapshots" in label else "policy"].encode("latin-1")
            case.body = json.loads(stored) if case.media_type == "application/json" else stored
        if which < 2:
            # As it will be sent.
            sent = json.dumps(case.body).encode() if case.media_type == "application/json" else case.body
            if isinstance(sent, bytes):
                case.path_parameters["cid"] = "b3:" + blake3.blake3(sent).hexdigest()
        return
    if not turn(label):
        return
    for name in "epoch_id", "policy_id", "actor":
        if name in case.path_parameters:
            case.path_parameters[name] = STORED[name]
    if label.endswith("/compute") and isinstance(case.body, dict):
        case.body.update(STORED["compute"])
