"""The four ways to ask for an egress, read into one shape, with the request as LiveKit keeps it: its keys redacted."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message
from livekit.protocol import egress as pb

from tests.fakes.livekit_egress.urls import redact

START_METHODS = frozenset(
    (
        "Egress/StartEgress",
        "Egress/StartParticipantEgress",
        "Egress/StartRoomCompositeEgress",
        "Egress/StartWebEgress",
    )
)


@dataclass(frozen=True)
class Wanted:
    """`source` is participant, media, composite or web; `identity` the one it follows, or empty; `urls` are full ones."""

    source: str
    room: str
    identity: str
    urls: list[str]
    ids: list[str]  # of the destinations, in step with `urls`; empty strings where none was given
    info: pb.EgressInfo


def read(message: Message) -> Wanted:
    """What a start request asks for. `info` has its request (redacted), room name and source type set, nothing more."""
    info = pb.EgressInfo()
    identity = ""
    if isinstance(message, pb.ParticipantEgressRequest):
        info.participant.CopyFrom(message)
        kept, source, identity, room = info.participant, "participant", message.identity, message.room_name
        streams = list(kept.stream_outputs)
    elif isinstance(message, pb.StartEgressRequest):
        info.egress.CopyFrom(message)
        kept, room = info.egress, message.room_name
        source = {"template": "composite", "web": "web"}.get(str(message.WhichOneof("source")), "media")
        if source == "media":
            identity = message.media.participant_video.identity
        streams = [one.stream for one in kept.outputs if one.HasField("stream")]
    elif isinstance(message, pb.RoomCompositeEgressRequest):
        info.room_composite.CopyFrom(message)
        kept, source, room = info.room_composite, "composite", message.room_name
        streams = [*kept.stream_outputs, *([kept.stream] if kept.HasField("stream") else [])]
    elif isinstance(message, pb.WebEgressRequest):
        info.web.CopyFrom(message)
        kept, source, room = info.web, "web", ""
        streams = [*kept.stream_outputs, *([kept.stream] if kept.HasField("stream") else [])]
    else:
        raise TypeError(type(message).__name__)
    urls: list[str] = []
    ids: list[str] = []
    for stream in streams:
        urls += stream.urls
        ids += [""] * len(stream.urls)
        stream.urls[:] = [redact(url) for url in stream.urls]
        for destination in stream.destinations:
            urls.append(destination.url)
            ids.append(destination.id)
            destination.url = redact(destination.url)
    info.room_name = room
    info.source_type = pb.EGRESS_SOURCE_TYPE_SDK if source in ("participant", "media") else pb.EGRESS_SOURCE_TYPE_WEB
    return Wanted(source, room, identity, urls, ids, info)
