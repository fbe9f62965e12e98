"""Every duration of reconciling, of the controller, and of its relays, as one value. Pure.

What operators choose is in their settings instead: the lease (`LiveSettings.lease`), retries (`RetrySettings`), the grace of a
source. A controller sends `relay` to its relays with their configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from butai.relay.timing import RelayTiming, faster, fixed


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Durations in seconds."""

    # Attempts

    start_limit: float = 45.0
    """From the start of an attempt until it must be live (`egress_start_timeout`)."""
    stop_limit: float = 10.0
    """Until an unconfirmed stop counts as done (`stop_unconfirmed`)."""
    once_wait: float = 3.0
    """Before the one further attempt after an error that is tried again once."""
    slow_wait: float = 15.0
    """Before `already_publishing` is tried again: the platform must first drop the other publisher."""
    least_window_wait: float = 0.5
    """The shortest delay to which a platform's window of tries may shorten the back-off."""

    # Engines

    engine_base: float = 5.0
    """Before the second start of an engine that does not come up; doubled for each further one."""
    engine_cap: float = 60.0
    """The longest such delay."""
    engine_steady: float = 60.0
    """Of running, until an engine counts as healthy: its next failure is its first."""
    kill_after: float = 8.5
    """That an engine gets to obey `StopEngine` before it is killed. A relay gives itself `relay.end_limit`."""
    engine_gone_after: float = 40.0
    """From its controller's last renewal until a relay on another host has ended: its last ping came within `keepalive_for`,
    it ends `relay.abandoned_after` later, and ending its outputs takes at most 4."""

    # The reconciler

    transaction_limit: float = fixed(8.0)
    """For one transaction: a Postgres that does not answer is as unreachable as one that refuses."""
    database_pause: float = 0.25
    """Before the second try while Postgres is unreachable; doubled for each further one."""
    database_pause_cap: float = 1.0
    """The longest such pause."""
    changed_pause: float = 0.05
    """Before rows are read again that were not as the plan saw them."""
    reread_every: float = 30.0
    """Until rows are read again though nothing happened: a notification may be lost."""

    # The controller

    sweep_every: float = 0.75
    """Between two searches for free broadcasts. With a lease of 3, those of a dead controller are taken over within 4."""
    heartbeat_every: float = 5.0
    """Between two heartbeats in `controllers`."""
    controller_gone_after: float = 60.0
    """Without a heartbeat, until a controller counts as gone."""
    controller_forgotten_after: float = fixed(86400.0)
    """Without a heartbeat, until the row of a killed controller is deleted."""
    metrics_every: float = 1.0
    """Between two statements that write the metrics of all outputs."""
    keepalive_for: float = 4.0
    """After the last renewal, that relays still get pings while other hosts have controllers. Those may start another relay
    `engine_gone_after` that renewal."""
    clock_tolerance: float = fixed(0.25)
    """That this machine's clock may differ from Postgres's before it is corrected: smaller differences are lost in the round
    trip."""
    crash_pause: float = 2.0
    """Before a broadcast whose reconciler crashed is taken again."""
    statement_limit: float = fixed(10.0)
    """For a round of renewals, heartbeats, metrics or searches."""
    open_pause: float = 1.0
    """Between two tries to open an egress while Postgres is unreachable."""
    release_limit: float = fixed(3.0)
    """For giving the leases back at the end; they expire otherwise."""

    # Relays, as their controller sees them

    relay_start_limit: float = fixed(20.0)
    """From the start of a relay's process until it must answer. It takes about one."""
    welcome_limit: float = fixed(3.0)
    """For the answer to `HelloLine`."""
    relay_lock_limit: float = 10.0
    """That a relay may have a lock and no socket: it starts or ends, for which it gives itself `relay.end_limit`."""
    connect_pause: float = fixed(0.03)
    """Between two looks for a relay's socket."""
    ping_every: float = 5.0
    """Between two pings, several of which fall into `relay.abandoned_after`."""
    exit_limit: float = fixed(1.0)
    """From the end of a relay's connection until its process has ended, if it was killed."""
    kill_limit: float = fixed(2.0)
    """For the kernel to end a killed process."""
    token_every: float = fixed(6 * 3600.0)
    """Between two tokens: a relay that joins again after days needs a valid one."""
    logs_kept: float = fixed(7 * 86400.0)
    """That a relay's log is kept."""
    relay: RelayTiming = field(default_factory=RelayTiming)

    @property
    def longest_attempt(self) -> float:
        """Until an attempt has failed at the latest: connecting and publishing."""
        return self.relay.rtmp.connect_timeout + self.relay.rtmp.publish_timeout

    def faster(self, times: float) -> Timing:
        """All durations divided, but for the fixed ones."""
        return faster(self, times)
