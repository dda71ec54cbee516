"""How likely it is that after a restart every outbound session is an attacker's.

A node that has lived a week among 5 000 honest addresses (70 % of them alive) is poisoned for seven
days by an attacker who holds nearly all inbound slots and tells of his own addresses as fast as the
token buckets allow, from as many networks as he has; he never goes away. Feelers, outbound churn,
collisions and refreshes go on meanwhile. Then the node restarts: anchors first, then draws from the
book until eight peers are connected.

The book, its file and the AS table are the real classes of this package; the network around them is
a list of who is alive. Counterparts in the same run are the same classes with the rules of Chia and
of Bitcoin Core where they differ, and ours with one defense after the other taken away.

The probability is far too small to count events. Given the book at the restart, the chance that the
next peer to be connected is the attacker's is exact: his share of what may still be drawn and is
alive. It is multiplied along the eight draws, each an attacker's address drawn by weight, which
then blocks its group and its AS (sequential conditional Monte Carlo); the mean over many such paths
is unbiased for the book, and books are made anew with other seeds and keys. The standard error of
the paths is small beside the spread over the books, which is what is printed. The weights
themselves are checked against draws of the real ``select_peer``.
"""

from __future__ import annotations

import statistics
import sys
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from random import Random

import attrs
from common import claim, describe_machine, number, options, print_table, progress

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.as_table import AsTable, Prefix
from dig_gossip.discovery.slots import BUCKET_SIZE
from dig_gossip.discovery.values import DAY, AddressBook, ExtendedPeerInfo, KnownAddress
from dig_gossip.lab.address_plan import draw_addresses, networks
from dig_gossip.lab.books import UniformAddressManager
from dig_gossip.types.peer import PeerAddress

START = 1_700_000_000
OUTBOUND = 8
INBOUND_OF_ATTACKER = 40  # all inbound slots
HONEST = 5000
ALIVE = 0.7
HONEST_ASES = 600
GROUPS_OF_ATTACKER_PER_AS = 8
STEP = 240  # seconds, the mean time between feelers
TOKENS_PER_SEC = 0.1  # rows that a peer may tell us unasked
HONEST_ROWS_PER_STEP = 20  # each live peer is heard of twice a day
SESSION_SECS = DAY  # mean life of an honest outbound session
ANCHOR_ALIVE = 0.95  # an honest anchor is still there after the restart


#: Addresses of the attacker: his ASes, and what the probability is to be at most.
GOALS = {5000: (20, 1e-5), 20_000: (100, 1e-3)}


@attrs.frozen(kw_only=True)
class Rules:
    """What a node does; the defaults are ours."""

    name: str
    manager: type[AddressManager] = AddressManager
    as_limit: bool = True
    group_limit: bool = True
    anchors: int = 2
    test_before_evict: bool = True
    has_tried_table: bool = True
    feelers_per_step: int = 1
    tokens_per_sec: float = TOKENS_PER_SEC
    lowers_times: bool = False
    bucket_first: bool = False
    has_as_table: bool = True
    random_anchors: bool = False
    anchors_take_slots: bool = False

    @property
    def life(self) -> tuple[object, ...]:
        """What makes two lives differ before the restart; the filters only matter after it."""
        return (
            self.manager, self.test_before_evict, self.has_tried_table, self.feelers_per_step,
            self.tokens_per_sec, self.lowers_times, self.has_as_table,
        )  # fmt: skip


class ChiaAddressManager(UniformAddressManager):
    """As in chia-blockchain: whoever speaks last sets the time of a known entry."""

    def _hear_again(self, node, offered, source_group, penalty, now):  # type: ignore[no-untyped-def]
        node.info = node.info._replace(timestamp=max(1, offered - penalty))
        super()._hear_again(node, offered, source_group, penalty, now)


OURS = Rules(name="dig_gossip")
RULES = (
    OURS,
    Rules(
        name="Chia's rules",
        manager=ChiaAddressManager,
        as_limit=False,
        anchors=0,
        lowers_times=True,
    ),
    Rules(
        name="Core's rules, no asmap",
        manager=UniformAddressManager,
        as_limit=False,
        feelers_per_step=2,
        bucket_first=True,
    ),
    attrs.evolve(OURS, name="ours without drawing the AS first", manager=UniformAddressManager),
    attrs.evolve(OURS, name="ours without an AS table", as_limit=False, has_as_table=False),
    attrs.evolve(OURS, name="ours without AS limit", as_limit=False),
    attrs.evolve(OURS, name="ours without AS and group limit", as_limit=False, group_limit=False),
    attrs.evolve(OURS, name="ours without anchors", anchors=0),
    attrs.evolve(OURS, name="ours with anchors at random", random_anchors=True),
    attrs.evolve(OURS, name="ours with anchors among the eight", anchors_take_slots=True),
    attrs.evolve(OURS, name="ours without test before evict", test_before_evict=False),
    attrs.evolve(OURS, name="ours without a tried table", has_tried_table=False),
    attrs.evolve(OURS, name="ours with 3 times the intake", tokens_per_sec=3 * TOKENS_PER_SEC),
)


class World:
    """Who has which address, and who is there."""

    def __init__(self, rng: Random, attackers: int, attacker_ases: int) -> None:
        groups = networks(rng)
        self.prefixes: list[Prefix] = []
        sizes = [1 / (rank + 1) for rank in range(HONEST_ASES)]
        homes = [
            self._as_groups(groups, number + 1, 1 + int(40 * size))
            for number, size in enumerate(sizes)
        ]
        self.honest = draw_addresses(rng, rng.choices(homes, sizes, k=HONEST))
        enemy_homes = [
            self._as_groups(groups, 10_000 + number, GROUPS_OF_ATTACKER_PER_AS)
            for number in range(attacker_ases)
        ]
        self.enemies = draw_addresses(
            rng, [enemy_homes[n % attacker_ases] for n in range(attackers)]
        )
        self.alive = set(rng.sample(self.honest, int(ALIVE * HONEST))) | set(self.enemies)
        self.enemy = frozenset(self.enemies)
        self.alive_honest = [address for address in self.honest if address in self.alive]
        self.as_table = AsTable(sorted(self.prefixes), [])
        everybody = [*self.honest, *self.enemies]
        self.group = {address: address.get_group() for address in everybody}
        self.asn = {address: self.as_table.lookup(address) for address in everybody}

    def _as_groups(self, groups: Iterator[int], as_number: int, count: int) -> list[int]:
        taken = [next(groups) for _ in range(count)]
        self.prefixes += [Prefix(group << 16, 16, as_number) for group in taken]
        return taken


class Life:
    """A node from its first day to the restart."""

    def __init__(self, rules: Rules, world: World, rng: Random) -> None:
        self.rules, self.world, self.rng = rules, world, rng
        self.now = START
        self.book = rules.manager(rng=rng, unix=lambda: self.now, key=rng.randbytes(32))
        self.follow(self.book)
        self.outbound: dict[PeerAddress, int] = {}

    def follow(self, book: AddressManager) -> None:
        """Give the AS table to a book, if there is one."""
        if self.rules.has_as_table:
            book.follow_as_table(self.world.as_table.lookup)

    def network(self, address: PeerAddress) -> int | bytes | None:
        """What is drawn before the address; one for all where addresses are drawn at once."""
        if isinstance(self.book, UniformAddressManager):
            return b""
        return (self.world.asn if self.rules.has_as_table else self.world.group)[address]

    def run(self, honest_days: float, poisoned_days: float) -> None:
        """Live among honest peers, then under attack."""
        rng, world = self.rng, self.world
        # What a node that asks everybody it meets is told in its first days.
        sources = rng.sample(world.alive_honest, 60 if honest_days >= 1 else 4)
        for source in sources:
            rows = rng.sample(world.honest, 1000)
            known = [
                KnownAddress(
                    address,
                    self.now - (rng.randrange(DAY) if address in world.alive
                                else rng.randrange(DAY, 25 * DAY)),
                )
                for address in rows
            ]  # fmt: skip
            self.book.add_to_new_table(known, source, 7200)
        for _ in range(int(honest_days * DAY / STEP)):
            self.step()
        for _ in range(int(poisoned_days * DAY / STEP)):
            self.poison()
            self.step()

    def poison(self) -> None:
        """What the attacker's inbound sessions say in one step."""
        rng, now = self.rng, self.now
        rows = int(self.rules.tokens_per_sec * STEP)
        for source in rng.sample(self.world.enemies, INBOUND_OF_ATTACKER):
            known = [
                KnownAddress(address, now) for address in rng.choices(self.world.enemies, k=rows)
            ]
            if self.rules.lowers_times:
                # A quarter of the rows makes honest entries look dead.
                for n in range(rows // 4):
                    known[n] = KnownAddress(rng.choice(self.world.honest), now - 40 * DAY)
            self.book.add_to_new_table(known, source, 7200)

    def step(self) -> None:
        """Gossip of honest peers, a feeler, churn, refreshes."""
        rng, book, world = self.rng, self.book, self.world
        self.now += STEP
        for _ in range(HONEST_ROWS_PER_STEP):
            heard = KnownAddress(rng.choice(world.alive_honest), self.now - rng.randrange(7200))
            book.add_to_new_table([heard], rng.choice(world.alive_honest), 7200)
        for _ in range(self.rules.feelers_per_step):
            info = book.select_tried_collision() or book.select_peer(new_only=True)
            if info is not None and info.address not in self.outbound:
                self.dial(info.address)
            book.resolve_tried_collisions()
        for address in list(self.outbound):
            if address not in world.enemy and rng.random() < STEP / SESSION_SECS:
                del self.outbound[address]
        for _ in range(50):
            if len(self.outbound) == OUTBOUND:
                break
            chosen = book.select_peer()
            if chosen is None or self.is_filtered(chosen.address):
                continue
            if self.dial(chosen.address):
                self.outbound[chosen.address] = self.now
        for address in self.outbound:
            book.connect(address)
        if self.now % 1800 < STEP:
            book.cleanup()

    def dial(self, address: PeerAddress) -> bool:
        """Whether somebody answers; the book learns of it."""
        if address not in self.world.alive:
            self.book.attempt(address, count_failure=True)
            return False
        if self.rules.has_tried_table:
            self.book.mark_good(address, self.rules.test_before_evict)
        else:
            self.book.connect(address)
        return True

    def is_filtered(self, address: PeerAddress) -> bool:
        """The limits of a group and of an AS; behaviour §15."""
        world, rules = self.world, self.rules
        return address in self.outbound or any(
            (rules.group_limit and world.group[other] == world.group[address])
            or (rules.as_limit and world.asn[other] == world.asn[address])
            for other in self.outbound
        )

    def anchors(self) -> list[PeerAddress]:
        """The outbound peers that have been there the longest."""
        return sorted(self.outbound, key=lambda address: self.outbound[address])


@attrs.frozen
class Restart:
    """What decides the first draws after the restart.

    :ivar weights: of the attacker's groups: group, AS, weight.
    :ivar honest: weight of all live honest entries.
    """

    weights: list[tuple[bytes, int | None, float]]
    honest: float
    anchors: list[bool]
    tried_share: float
    new_share: float

    @classmethod
    def of(cls, book: AddressBook, life: Life, bucket_first: bool) -> Restart:
        """Weigh every entry by the chance that a draw chooses it."""
        world, now = life.world, life.now + 600
        weight = weigher(book, now, None if bucket_first else life.network)
        groups: defaultdict[tuple[bytes, int | None], float] = defaultdict(float)
        honest = 0.0
        for info in book.entries:
            address = info.address
            if address in world.enemy:
                groups[world.group[address], world.asn[address]] += weight(info)
            elif address in world.alive:
                honest += weight(info)
        counts = Counter((info.is_tried, info.address in world.enemy) for info in book.entries)
        return cls(
            [(group, asn, total) for (group, asn), total in groups.items()],
            honest,
            [address in world.enemy for address in life.anchors()],
            counts[True, True] / max(1, counts[True, True] + counts[True, False]),
            counts[False, True] / max(1, counts[False, True] + counts[False, False]),
        )

    def probability(self, rules: Rules, rng: Random, paths: int) -> float:
        """The mean over paths on which every draw is the attacker's."""
        return statistics.fmean(self._restart(rules, rng) for _ in range(paths))

    def _restart(self, rules: Rules, rng: Random) -> float:
        """Dial the anchors, then fill the other slots on one path."""
        anchors = self.anchors
        if rules.random_anchors:
            anchors = rng.sample(anchors, len(anchors))
        anchored = 1.0
        slots = OUTBOUND
        for is_enemy in anchors[: rules.anchors]:
            if is_enemy:
                slots -= rules.anchors_take_slots
            else:
                anchored *= 1 - ANCHOR_ALIVE
        return anchored * self._path(rules, rng, slots)

    def _path(self, rules: Rules, rng: Random, slots: int) -> float:
        totals = list(accumulate(weight for _, _, weight in self.weights))
        rest = totals[-1] if totals else 0.0
        used_groups: set[bytes] = set()
        used_ases: set[int | None] = set()
        probability = 1.0
        for _ in range(slots):
            if rest <= 1e-12:
                return 0.0
            probability *= rest / (rest + self.honest)
            while True:
                group, asn, _ = self.weights[bisect(totals, rng.random() * totals[-1])]
                if group not in used_groups and asn not in used_ases:
                    break
            if rules.group_limit:
                used_groups.add(group)
            if rules.as_limit:
                used_ases.add(asn)
            rest = sum(
                weight
                for group, asn, weight in self.weights
                if group not in used_groups and asn not in used_ases
            )
        return probability


def weigher(
    book: AddressBook, now: int, network: Callable[[PeerAddress], int | bytes | None] | None
) -> Callable[[ExtendedPeerInfo], float]:
    """The chance that one draw ends with an entry.

    Both tables alike; each part of a table that has used slots alike; each of these slots alike.
    What is looked at is taken by its selection chance, which is a fifth more after each refusal:
    the chances are summed over the number of refusals, so they are exact.

    :param network: tells the part by the address; None if the parts are buckets, as in Core.
    """

    def parts(info: ExtendedPeerInfo) -> list[tuple[bool, int | bytes | None]]:
        if network is None:
            return [(info.is_tried, slot // BUCKET_SIZE) for slot in info.slots]
        return [(info.is_tried, network(info.address))] * len(info.slots)

    used = Counter(part for info in book.entries for part in parts(info))
    filled = Counter(is_tried for is_tried, _ in used)

    def looked_at(info: ExtendedPeerInfo) -> float:
        return sum(1 / used[part] for part in parts(info)) / filled[info.is_tried]

    masses: dict[bool, defaultdict[float, float]] = {t: defaultdict(float) for t in filled}
    for info in book.entries:
        masses[info.is_tried][info.selection_chance(now)] += looked_at(info)
    taken = {is_tried: _taken(mass) for is_tried, mass in masses.items()}

    def weight(info: ExtendedPeerInfo) -> float:
        chance = taken[info.is_tried][info.selection_chance(now)]
        return looked_at(info) * chance / len(filled)

    return weight


def _taken(masses: dict[float, float]) -> dict[float, float]:
    """How often, in one draw, an entry is taken for each time that the first look falls on it.

    :param masses: the share of looks that fall on entries of each selection chance.
    """
    taken = dict.fromkeys(masses, 0.0)
    left, factor = 1.0, 1.0
    while left > 1e-15:
        accepted = {chance: min(1.0, factor * chance) for chance in masses}
        for chance, probability in accepted.items():
            taken[chance] += left * probability
        left *= max(0.0, 1 - sum(masses[c] * probability for c, probability in accepted.items()))
        factor *= 1.2
    return taken


def check_weights(life: Life, restart: Restart, draws: int) -> tuple[float, float]:
    """The attacker's share of live draws: by the weights, and by the real ``select_peer``."""
    world = life.world
    life.now += 600
    book = type(life.book).restore(life.book.snapshot(), rng=life.rng, unix=lambda: life.now)
    life.follow(book)
    book.regroup()
    found: Counter[bool] = Counter()
    while found.total() < draws:
        info = book.select_peer()
        if info is not None and info.address in world.alive:
            found[info.address in world.enemy] += 1
    enemy = sum(weight for _, _, weight in restart.weights)
    return enemy / (enemy + restart.honest), found[True] / draws


@attrs.frozen(kw_only=True)
class Task:
    """One life to simulate, in a process of its own."""

    attackers: int
    life: tuple[object, ...]
    seed: str
    honest_days: float
    days: float
    paths: int
    draws: int


@attrs.frozen
class Outcome:
    """What a life came to, for each set of rules that share it."""

    probabilities: dict[str, float]
    tried_share: float
    new_share: float
    check: tuple[float, float]


def live(task: Task) -> Outcome:
    """Simulate one life and weigh the restarts that may follow."""
    ases, _ = GOALS[task.attackers]
    sharing = [rules for rules in RULES if rules.life == task.life]
    # The same seed for all rules: the same world, the same first days.
    rng = Random(task.seed)
    life = Life(sharing[0], World(rng, task.attackers, ases), rng)
    life.run(task.honest_days, task.days)
    book = life.book.snapshot()
    probabilities = {}
    for rules in sharing:
        restart = Restart.of(book, life, rules.bucket_first)
        probabilities[rules.name] = restart.probability(rules, Random(5), task.paths)
    uniform = Restart.of(book, life, bucket_first=False)
    return Outcome(
        probabilities,
        uniform.tried_share,
        uniform.new_share,
        check_weights(life, uniform, task.draws),
    )


def main() -> int:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--days", type=float, default=7.0, help="of poisoning (7)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="lives simulated at the same time (2)")
    parser.add_argument(
        "--attacker", type=int, choices=sorted(GOALS), action="append", help="only with so many"
    )
    chosen = parser.parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 3)
    days, honest_days = (0.01, 0.02) if chosen.quick else (chosen.days, 7.0)
    paths, draws = (20, 200) if chosen.quick else (400, 20_000)
    print(describe_machine())
    print(
        f"{HONEST} honest addresses in {HONEST_ASES} ASes, {ALIVE:.0%} alive; {days:g} days; "
        f"{rounds} books for each figure, {paths} paths a book, seed {chosen.seed}"
    )
    lives = list(dict.fromkeys(rules.life for rules in RULES))
    attackers = chosen.attacker or sorted(GOALS)
    tasks = [
        Task(
            attackers=count,
            life=life,
            seed=f"{chosen.seed} {count} {number}",
            honest_days=honest_days,
            days=days,
            paths=paths,
            draws=draws,
        )
        for number in range(rounds)
        for count in attackers
        for life in lives
    ]
    outcomes: dict[int, list[Outcome]] = {count: [] for count in attackers}
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for done, (task, outcome) in enumerate(zip(tasks, pool.map(live, tasks), strict=True), 1):
            outcomes[task.attackers].append(outcome)
            progress(f"{done} of {len(tasks)} lives")
    verdicts = [verdict for count in attackers for verdict in show(count, outcomes[count], rounds)]
    for text, figure, counterpart, goal in verdicts:
        claim(
            text,
            figure,
            counterpart,
            figure / counterpart,
            f"figure <= {goal:g}",
            holds=figure <= goal,
        )
    return 0


def show(
    attackers: int, outcomes: list[Outcome], rounds: int
) -> list[tuple[str, float, float, float]]:
    """Print the table of one attacker.

    :returns: the verdicts: text, our figure, the counterpart's, the goal.
    """
    ases, goal = GOALS[attackers]
    print(f"\n{attackers} addresses of an attacker in {ases} ASes")
    rows = []
    means = {}
    for rules in RULES:
        mine = [outcome for outcome in outcomes if rules.name in outcome.probabilities]
        values = [outcome.probabilities[rules.name] for outcome in mine]
        means[rules.name] = max(statistics.fmean(values), 1e-300)
        rows.append(
            [
                rules.name,
                f"{statistics.fmean(values):.1e}",
                f"{min(values):.1e}",
                f"{max(values):.1e}",
                f"{statistics.fmean(outcome.tried_share for outcome in mine):.0%}",
                f"{statistics.fmean(outcome.new_share for outcome in mine):.0%}",
            ]
        )
    header = ["rules", "all are his: mean", "lowest", "highest", "his share of tried", "of new"]
    print_table(header, rows)
    checks = [outcome.check for outcome in outcomes if OURS.name in outcome.probabilities]
    for by_weights, drawn in checks[:rounds]:
        print(f"his share of live draws: {number(by_weights)} by weights, {number(drawn)} drawn")
    return [
        (
            f"eclipse by {attackers} addresses in {ases} ASes, against {rules.name}",
            means[OURS.name],
            means[rules.name],
            goal,
        )
        for rules in RULES[1:3]
    ]


if __name__ == "__main__":
    sys.exit(main())
