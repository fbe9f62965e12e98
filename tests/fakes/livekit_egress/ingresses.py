"""Ingresses: made, listed, deleted, and started or ended by a test. `StandIn.ingresses` is one of these."""

from __future__ import annotations

from livekit.protocol import ingress as pb
from livekit.protocol.webhook import WebhookEvent

from tests.fakes.livekit_egress.clock import Clock, new_id, ns
from tests.fakes.livekit_egress.twirp import TwirpError
from tests.fakes.livekit_egress.webhooks import Webhooks


class Ingresses:
    """By id. The stream key comes back in full at creation and in ListIngress, as with LiveKit."""

    def __init__(self, clock: Clock, webhooks: Webhooks) -> None:
        self._clock = clock
        self._webhooks = webhooks
        self._found: dict[str, pb.IngressInfo] = {}

    async def create(self, request: pb.CreateIngressRequest) -> pb.IngressInfo:
        if not request.participant_identity:
            raise TwirpError("invalid_argument", "twirp error unknown: no participant identity")
        whip = request.input_type == pb.WHIP_INPUT
        info = pb.IngressInfo(
            ingress_id=new_id("IN"),
            name=request.name,
            stream_key=new_id("SK").removeprefix("SK_"),
            url="http://127.0.0.1:8080/w" if whip else "rtmp://127.0.0.1:1935/x",
            input_type=request.input_type,
            room_name=request.room_name,
            participant_identity=request.participant_identity,
            participant_name=request.participant_name,
            participant_metadata=request.participant_metadata,
            reusable=request.input_type != pb.URL_INPUT,
            state=pb.IngressState(status=pb.IngressState.ENDPOINT_INACTIVE),
        )
        self._found[info.ingress_id] = info
        return info

    async def list(self, request: pb.ListIngressRequest) -> pb.ListIngressResponse:
        found = [
            info
            for info in self._found.values()
            if (not request.room_name or info.room_name == request.room_name)
            and (not request.ingress_id or info.ingress_id == request.ingress_id)
        ]
        return pb.ListIngressResponse(items=found)

    async def delete(self, request: pb.DeleteIngressRequest) -> pb.IngressInfo:
        info = self._found.pop(request.ingress_id, None)
        if info is None:
            raise TwirpError("not_found", "twirp error unknown: ingress does not exist")
        if info.state.status == pb.IngressState.ENDPOINT_PUBLISHING:
            self._end(info, "")
        return info

    def begin(self, ingress_id: str) -> None:
        """Begins a publish to it: `ingress_started`."""
        info = self._found[ingress_id]
        now = ns()
        info.state.status = pb.IngressState.ENDPOINT_PUBLISHING
        info.state.started_at = info.state.updated_at = now
        info.state.resource_id = new_id("ING")
        self._webhooks.emit(WebhookEvent(event="ingress_started", ingress_info=info))

    def end(self, ingress_id: str, error: str = "") -> None:
        """They have stopped, or it failed with that error: `ingress_ended`."""
        self._end(self._found[ingress_id], error)

    def _end(self, info: pb.IngressInfo, error: str) -> None:
        info.state.status = pb.IngressState.ENDPOINT_ERROR if error else pb.IngressState.ENDPOINT_INACTIVE
        info.state.error = error
        info.state.ended_at = info.state.updated_at = ns()
        self._webhooks.emit(WebhookEvent(event="ingress_ended", ingress_info=info))
