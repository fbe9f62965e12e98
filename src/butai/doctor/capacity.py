"""Says how many broadcasts a controller on this machine carries. Part of `butai doctor`."""

from __future__ import annotations

from butai.config import Settings
from butai.doctor.findings import Findings
from butai.live.egress.presets import LIVEKIT_COST, RELAY_COSTS
from butai.live.reconcile.capacity import ROUNDING
from butai.live.reconcile.machine import cores_for_engines


async def examine_capacity(settings: Settings, findings: Findings) -> None:
    """Adds one finding, for new broadcasts at the default preset."""
    live = settings.live
    cores = cores_for_engines(live)
    cost = RELAY_COSTS[live.preset] if live.egress == "relay" else LIVEKIT_COST
    fit = int((cores + ROUNDING) / cost)
    said = f"{cores:g} cores for broadcasts: {fit} at {live.preset}"
    if live.capacity == 0:
        findings.warn(
            "broadcasts", "BUTAI_CAPACITY is 0: a controller takes no new broadcasts", "unset it, or raise it"
        )
    elif fit < 1:
        findings.warn(
            "broadcasts",
            f"{said}, so a controller here takes one at a time, and its pictures may come late",
            "give the machine more cores, choose a smaller BUTAI_PRESET, or lower BUTAI_CAPACITY_RESERVE"
            if live.capacity is None
            else "choose a smaller BUTAI_PRESET, or raise or unset BUTAI_CAPACITY",
        )
    else:
        findings.ok("broadcasts", said)
