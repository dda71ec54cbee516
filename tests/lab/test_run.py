"""Whole runs: the same inputs give the same bytes, and models have the properties they must."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.machine import PlumtreeMachine, as_peer
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import BOOKS, PROTOCOLS, parse
from dig_gossip.lab.values import RunResult

BASE = """
[overlay]
nodes = 40
links = 4
[[phase]]
name = "warmup"
messages = 40
rate = 4
origins = 1
[[phase]]
name = "measured"
messages = 10
rate = 2
arrivals = "regular"
origins = 1
"""


def simulate(protocol: str, extra: str = "", seed: int = 1) -> RunResult:
    """Run the small scenario, with tables added."""
    return run(parse(BASE + extra), protocol, seed)


def digest(protocol: str) -> str:
    """Name everything that a run with losses, churn and slow uplinks gives."""
    extra = "[network]\nloss = 0.05\nuplink_mbit = 5\n[churn]\nper_minute = 1\nsilent = 0.5\n"
    return digest_of(simulate(protocol, extra, seed=7))


def digest_of(result: RunResult) -> str:
    """Name all that a run gave."""
    return hashlib.sha256(json.dumps(result.to_json(), sort_keys=True).encode()).hexdigest()


class DeterminismTests(SynchronousTestCase):
    """A scenario and a seed are a complete description."""

    def test_hash_seed_changes_nothing(self) -> None:
        """Two processes with other hash seeds give the same figures.  design D1"""
        program = (
            "from tests.lab import test_books, test_laned\n"
            "from tests.lab.test_run import digest\n"
            "print(*map(digest, ('plumtree', 'gossipsub-1.2', 'plumtree-paper')))\n"
            "print(*map(digest, ('erlay-safety-net', 'dandelion', 'compact-blocks')))\n"
            "print(test_books.digest(), test_laned.digest())"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for seed in ("1", "2")
        }
        self.assertEqual(len(outputs), 1)

    def test_another_seed_is_another_run(self) -> None:
        """Or else the former test would show nothing.  design D1"""
        self.assertNotEqual(simulate("flood", seed=1).facts, simulate("flood", seed=2).facts)


class PropertyTests(SynchronousTestCase):
    """What is known of each protocol, without losses and failures."""

    def test_everybody_gets_every_message_once(self) -> None:
        """No protocol loses or repeats anything.  design §6"""
        for protocol in PROTOCOLS:
            if protocol in BOOKS:
                continue
            # Short stems: the run is over some seconds after the last message.
            hidden = "[dandelion]\nfluff_probability = 0.5\nstem_timeout_secs = 1\n"
            extra = hidden if protocol.startswith("dandelion") else ""
            facts = simulate(protocol, extra).facts
            self.assertEqual(facts["delivered_share"], 1.0, protocol)
            self.assertEqual(facts["repeated_deliveries"], 0.0, protocol)

    def test_flood_takes_2e_minus_n_plus_1_frames(self) -> None:
        """Every node but the origin keeps one link back.  design §6"""
        result = simulate("flood")
        links = int(result.facts["links"])
        self.assertEqual({row["payload_copies"] for row in result.messages}, {2 * links - 40 + 1})

    def test_announce_and_request_takes_a_copy_a_node(self) -> None:
        """What is announced everywhere is sent once to each.  design §6"""
        result = simulate("announce")
        links = int(result.facts["links"])
        self.assertEqual({row["payload_copies"] for row in result.messages}, {39})
        frames = result.bytes["measured"]["announcements"]["frames"]
        self.assertEqual(frames, 10 * (2 * links - 40 + 1))

    def test_trees_of_one_origin_take_a_copy_a_node(self) -> None:
        """Once the tree has formed, N - 1 copies are left.  PLT-004.1"""
        for protocol in ("plumtree", "plumtree-paper"):
            rows = simulate(protocol).messages
            self.assertEqual({row["payload_copies"] for row in rows[-5:]}, {39}, protocol)

    def test_mesh_keeps_its_bounds(self) -> None:
        """Degrees lie within D_low and D_high.  design §6"""
        extra = "[gossipsub]\nd = 4\nd_low = 3\nd_high = 6\n"
        degrees = [int(degree) for degree in simulate("gossipsub-1.1", extra).tree["degree"]]
        self.assertTrue(min(degrees) >= 3 and max(degrees) <= 6, degrees)

    def test_frames_wait_for_an_uplink(self) -> None:
        """A slow uplink makes a flood slower, but not an unlimited one.  design §6"""
        slow = "[network]\nuplink_mbit = 0.5\n"
        self.assertGreater(simulate("flood", slow).facts["p99"], simulate("flood").facts["p99"])
        self.assertEqual(
            simulate("flood-unlimited", slow).facts["p99"], simulate("flood").facts["p99"]
        )

    def test_warmup_is_left_out(self) -> None:
        """Its bytes are in no figure but its own.  design §6"""
        result = simulate("plumtree")
        measured = sum(count["bytes"] for count in result.bytes["measured"].values())
        self.assertEqual(result.facts["bytes"], measured)
        self.assertGreater(result.facts["warmup_bytes"], 0)


class TroubleTests(SynchronousTestCase):
    """Nodes that die, leave, or do harm."""

    def test_the_dead_are_not_expected_to_get_anything(self) -> None:
        """A flood reaches exactly those that it can reach.  design §6"""
        extra = '[[phase]]\nname = "after_failure"\nmessages = 5\nkill = 0.5\n'
        result = simulate("flood", extra)
        rows = [row for row in result.messages if row["phase"] == "after_failure"]
        self.assertTrue(all(row["delivered"] == row["reachable"] < 20 for row in rows))
        self.assertEqual(result.series[-1]["live"], 20.0)

    def test_plumtree_heals(self) -> None:
        """A third falls silent unnoticed, and the rest still get all.  PLT-005.1"""
        extra = '[[phase]]\nname = "after_failure"\nmessages = 5\nkill = 0.3\nrate = 1\n'
        facts = simulate("plumtree", extra).facts
        self.assertEqual(facts["after_failure.delivered_share"], 1.0)

    def test_networks_may_be_half_up_to_date(self) -> None:
        """Everybody is reached, and trees with tags are used by those who know them.  PLT-004"""
        openings = []
        for share in (0, 0.5, 1):
            text = BASE.replace("links = 4", f"links = 4\ntreeless = {share}", 1)
            result = run(parse(text), "plumtree", 1)
            self.assertTrue(all(row["delivered"] == 39 for row in result.messages), share)
            openings.append(result.bytes["warmup"].get("control", {"frames": 0})["frames"])
        without = parse(BASE + "[plumtree]\ntagged_trees = false\n")
        self.assertEqual(run(without, "plumtree", 1).bytes, result.bytes)
        self.assertGreater(openings[0], openings[1])
        self.assertGreater(openings[1], openings[2])

    def test_both_ends_of_a_link_agree_whether_it_has_trees(self) -> None:
        """It has, if both nodes know them.  design D6"""
        scenario = parse(BASE.replace("links = 4", "links = 4\ntreeless = 0.5", 1))
        machines = [PlumtreeMachine(scenario, node, float, Random(node)) for node in range(20)]
        wanted: dict[int, int] = {}
        for node, machine in enumerate(machines):
            for other in range(20):
                if other != node:
                    machine.peer_up(as_peer(other), dialed=True, rtt=0.1)
            wanted[node] = len(machine.engine._tagged.peers)
        self.assertEqual(sorted(wanted.values()), [0] * 10 + [9] * 10)

    def test_adversaries_leave_their_mark(self) -> None:
        """Spies guess, liars are distrusted, pruned links heal.  PLT-106-X"""
        spies = simulate("flood", '[[adversary]]\nkind = "spy"\nshare = 0.5\n')
        self.assertGreater(spies.facts["adversary.guessed_share"], 0.5)
        for kind in ("black-hole", "prune-storm", "liar", "slow-drip"):
            extra = f'[[adversary]]\nkind = "{kind}"\nshare = 0.1\n'
            facts = simulate("plumtree", extra).facts
            self.assertEqual(facts["delivered_share"], 1.0, kind)
        lied = simulate("plumtree", '[[adversary]]\nkind = "liar"\nshare = 0.1\n')
        self.assertGreater(lied.facts["engine.announcers_distrusted"], 0)

    def test_adversary_must_speak_the_protocol(self) -> None:
        """Nothing is simulated that means nothing.  design §6"""
        with self.assertRaises(InvalidConfig):
            simulate("flood", '[[adversary]]\nkind = "liar"\n')
