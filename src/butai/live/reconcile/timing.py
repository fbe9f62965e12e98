"""Every duration of reconciling, of the controller, and of its relays, as one value. Pure.

What operators choose is in their settings instead: the lease (`LiveSettings.lease`), retries (`RetrySettings`), the
grace of a source. A controller sends `relay` to its relays with their configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from butai.relay.timing import RelayTiming, faster, fixed


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Durations in seconds."""

    # Attempts

    start_limit: float = 45.0
    """Most time from the start of an attempt until it is live (`egress_start_timeout`)."""
    stop_limit: float = 10.0
    """Time after which an unconfirmed stop counts as done (`stop_unconfirmed`)."""
    once_wait: float = 3.0
    """Wait before the one further attempt after an error that is tried again once."""
    slow_wait: float = 15.0
    """Wait before the next attempt after `already_publishing`: the platform must first drop the other publisher."""
    least_window_wait: float = 0.5
    """Shortest delay to which a platform's window of tries may shorten the back-off."""

    # Engines

    engine_base: float = 5.0
    """Wait before the second start of an engine that does not come up; doubled for each further one."""
    engine_cap: float = 60.0
    """Longest such wait."""
    engine_steady: float = 60.0
    """Running time after which an engine counts as healthy: its next failure counts as its first."""
    kill_after: float = 8.5
    """Time for an engine to obey `StopEngine` before it is killed. A relay limits its own end to `relay.end_limit`."""
    engine_gone_after: float = 40.0
    """Time from a controller's last renewal after which a relay on another host no longer pushes: its last ping came
    within `keepalive_for`, it ends `relay.abandoned_after` later, checks that each `relay.metrics_every`, and ends its
    pushes within 4."""

    # Capacity

    capacity_patience: float = 2.0
    """Time for which a new broadcast waits for a controller without being told that none has room: two searches of
    every controller, and a margin."""
    capacity_measured: float = 15.0
    """Most time from a controller's start until it has measured what the engines that it resumed take: ten of their
    reports, and a margin. Some never say: their host sends too little."""
    capacity_pause: float = 30.0
    """Time from one `no_capacity` in the timeline to the next. A controller that has room does not wait for it."""
    capacity_limit: float = 300.0
    """Time after which a broadcast that no controller has room for ends."""

    # The reconciler

    transaction_limit: float = fixed(8.0)
    """Most time for one transaction: a Postgres that does not answer counts as unreachable, like one that refuses."""
    database_pause: float = 0.25
    """Wait before the second try while Postgres is unreachable; doubled for each further one."""
    database_pause_cap: float = 1.0
    """Longest such wait."""
    changed_pause: float = 0.05
    """Wait before rows that changed since the plan are read again."""
    reread_every: float = 30.0
    """Time after which rows are read again without a notification: one may have been lost."""

    # The controller

    sweep_every: float = 0.75
    """Time between two searches for free broadcasts. With a lease of 3, those of a dead controller are taken over
    within 4."""
    heartbeat_every: float = 5.0
    """Time between two heartbeats in `controllers`."""
    controller_gone_after: float = 60.0
    """Time without a heartbeat after which a controller counts as gone."""
    controller_forgotten_after: float = fixed(86400.0)
    """Time without a heartbeat after which the row of a killed controller is deleted."""
    metrics_every: float = 1.0
    """Time between two statements that write the metrics of all outputs."""
    keepalive_for: float = 4.0
    """Time after the last renewal for which relays still get pings while other hosts have controllers. Those may start
    another relay `engine_gone_after` that renewal."""
    clock_tolerance: float = fixed(0.25)
    """Difference of this machine's clock from Postgres's above which it is corrected: smaller differences are lost in
    the round trip."""
    crash_pause: float = 2.0
    """Wait before a broadcast whose reconciler crashed is taken again."""
    statement_limit: float = fixed(10.0)
    """Most time for a round of renewals, heartbeats, metrics or searches."""
    open_pause: float = 1.0
    """Wait between two tries to open an egress while Postgres is unreachable."""
    release_limit: float = fixed(3.0)
    """Most time for giving back the leases at the end; they expire otherwise."""

    # Relays, as their controller sees them

    relay_start_limit: float = fixed(20.0)
    """Most time from the start of a relay's process until it answers. It takes about one."""
    standby_for: float = 900.0
    """Time from the last sign that a broadcast may begin soon for which a process is on standby."""
    standby_check_every: float = fixed(5.0)
    """Time between two checks that it answers."""
    standby_answer_limit: float = fixed(3.0)
    """Most time for its answer, and for a taken one until it listens; then another process is started in its place."""
    standby_load_limit: float = fixed(60.0)
    """Most time for loading its code, at a low priority for the first 4 s. A start that takes it meanwhile waits for up to
    `relay_start_limit`; where it hangs, another process then has as long again."""
    standby_pause: float = 10.0
    """Time after one was taken or lost until the next one is loaded, so that a start does not compete with it."""
    welcome_limit: float = fixed(3.0)
    """Most time for the answer to `HelloLine`."""
    relay_lock_limit: float = 10.0
    """Most time for which a relay may have a lock and no socket: it is starting or ending, the latter within
    `relay.end_limit`."""
    connect_pause: float = fixed(0.03)
    """Time between two checks for a relay's socket."""
    ping_every: float = 5.0
    """Time between two pings, several of which fall into `relay.abandoned_after`."""
    relay_silent_after: float = fixed(2.0)
    """Time without a line after which a relay with live outputs may stand still: two of `relay.metrics_every`."""
    relay_silent_again: float = fixed(0.5)
    """Further time until it does."""
    exit_limit: float = fixed(1.0)
    """Most time from the end of a relay's connection until its process has ended, if it was killed."""
    kill_limit: float = fixed(2.0)
    """Most time for the kernel to end a killed process."""
    token_every: float = fixed(6 * 3600.0)
    """Time between two tokens: a relay that joins again after days needs a valid one."""
    room_limit: float = fixed(5.0)
    """Most time for making a room again that LiveKit has lost; it is tried at each ping."""
    logs_kept: float = fixed(7 * 86400.0)
    """Time for which a relay's log is kept."""
    relay: RelayTiming = field(default_factory=RelayTiming)

    @property
    def longest_attempt(self) -> float:
        """Most time until an attempt has failed: connecting and publishing."""
        return self.relay.rtmp.connect_timeout + self.relay.rtmp.publish_timeout

    @property
    def longest_hurried_attempt(self) -> float:
        """The same for a platform that keeps viewers for a short time only."""
        return self.relay.rtmp.connect_timeout + self.relay.rtmp.hurried_publish_timeout

    def faster(self, times: float) -> Timing:
        """The same timing with all durations divided by `times`, except the fixed ones."""
        return faster(self, times)
