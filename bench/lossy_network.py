"""A network of its own (`unshare --net`, so it needs root), whose loopback drops 2 % of the UDP datagrams at random.

What was really dropped is counted by the kernel. Used by `sync` and `long_show`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_INSIDE = "BUTAI_BENCH_LOSSY_NETWORK"
_ONE_OF = 50
_DROPS = (
    # A classic BPF program for `tc … bpf`: the byte 23 of an Ethernet frame is IP's protocol, 17 is UDP's number; then a
    # random number (SKF_AD_OFF + SKF_AD_RANDOM, linux/filter.h) modulo the share that is lost.
    f"7,48 0 0 23,21 0 4 17,32 0 0 {2**32 - 4096 + 56},148 0 0 {_ONE_OF},21 0 1 0,6 0 0 {2**32 - 1},6 0 0 0"
)


def enter() -> None:
    """Starts this program again in a network of its own, unless it is in one."""
    if _INSIDE not in os.environ:
        program = shutil.which("unshare") or "unshare"
        os.execve(program, [program, "--net", sys.executable, *sys.argv], os.environ | {_INSIDE: "1"})


def lose_packets() -> None:
    """Puts the losses into this network's loopback."""
    commands = [
        "ip link set lo up",
        # WebRTC looks for an interface that is not loopback; what goes to its own address takes loopback all the same.
        "ip link add stage0 type veth peer name stage1",
        "ip addr add 10.99.0.1/24 dev stage0",
        "ip link set stage0 up",
        "ip link set stage1 up",
        "tc qdisc add dev lo root handle 1: htb default 10",
        "tc class add dev lo parent 1: classid 1:10 htb rate 40gbit burst 10m cburst 10m quantum 60000",
        "tc class add dev lo parent 1: classid 1:30 htb rate 8bit ceil 8bit quantum 1500",
        "tc qdisc add dev lo parent 1:10 handle 10: pfifo limit 10000",
        # Takes nothing: what is sent here is lost.
        "tc qdisc add dev lo parent 1:30 handle 30: bfifo limit 1",
    ]
    for command in commands:
        subprocess.run(command.split(), check=True)
    lossy = "tc filter add dev lo parent 1: protocol ip prio 1 bpf flowid 1:30 bytecode"
    subprocess.run([*lossy.split(), _DROPS], check=True)


def counted() -> tuple[int, int]:
    """UDP datagrams that were sent, and those that were dropped, in this network."""
    snmp = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
    sent = int(dict(zip(snmp[0], snmp[1], strict=True))["OutDatagrams"])
    said = subprocess.run(["tc", "-s", "qdisc", "show", "dev", "lo"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"qdisc bfifo 30:.*?dropped (\d+)", said, re.DOTALL)
    return sent, int(found[1]) if found else 0
