"""What LiveKit is asked to send: one broadcast's picture and sound, in the relay's presets. Called by `livekit`."""

from __future__ import annotations

from urllib.parse import quote

from livekit import api
from livekit.protocol import egress

from butai.config import LiveSettings
from butai.live.egress.presets import PRESETS
from butai.live.reconcile.rows import BroadcastRow
from butai.relay.rtmp.hidden import complete

KEYFRAME_SECONDS = 2.0
"""LiveKit's own is 4; platforms want 2 (YouTube's and Twitch's encoder settings)."""


def full_url(door: str, secret: str) -> str:
    """Where a stream is published: a stored ingest URL, with what was sealed with it. A query stays before the key, where
    YouTube's backup has it."""
    url, key = complete(door, secret)
    return f"{url.rstrip('/')}/{key}" if key else url


def encoding(preset: str) -> egress.EncodingOptions:
    """Of a preset. LiveKit encodes constant bitrate for streams."""
    of = PRESETS[preset]
    return egress.EncodingOptions(
        width=of.width,
        height=of.height,
        framerate=of.fps,
        audio_codec=api.AudioCodec.AAC,
        audio_bitrate=of.audio_kbps,
        audio_frequency=of.audio_rate,
        video_codec=api.VideoCodec.H264_MAIN,
        video_bitrate=of.video_kbps,
        key_frame_interval=KEYFRAME_SECONDS,
    )


def start_request(
    settings: LiveSettings, broadcast: BroadcastRow, urls: list[str]
) -> egress.StartEgressRequest | egress.ParticipantEgressRequest:
    """For a new egress of a broadcast to these addresses, which hold keys."""
    options = encoding(broadcast.preset)
    screen = broadcast.video_source == "screen_share"
    if settings.livekit_source == "participant":
        return egress.ParticipantEgressRequest(
            room_name=broadcast.room_id,
            identity=broadcast.host_identity,
            screen_share=screen,
            advanced=options,
            stream_outputs=[egress.StreamOutput(protocol=egress.StreamProtocol.RTMP, urls=urls)],
        )
    request = egress.StartEgressRequest(
        room_name=broadcast.room_id,
        advanced=options,
        outputs=[egress.Output(stream=egress.StreamOutput(protocol=egress.StreamProtocol.RTMP, urls=urls))],
    )
    template = settings.livekit_template_url
    if settings.livekit_source == "media":
        host = broadcast.host_identity
        request.media.participant_video.identity = host
        request.media.participant_video.prefer_screen_share = screen
        request.media.audio.routes.add(participant_identity=host)
    elif settings.livekit_source == "room_composite":
        request.template.layout = settings.livekit_layout
        if template:
            request.template.custom_base_url = template
    else:
        request.web.url = template.replace("{room_id}", quote(broadcast.room_id, safe=""))
    return request
