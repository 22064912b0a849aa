"""What lines keep together: findings for groups that leak where no line of theirs explains it, and for each line that
leaks how much the whole operation keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..model.heap import F64
from ..model.leak import Evidence, LeakFinding, LineShare, PerOperation, Rate, Verdict, Whole
from . import looks, operations
from .gathering import Analysis, Data, End
from .groups import Group, common_place
from .judging import Judged, judge_all
from .report import Prices
from .wording import percent_text, rate_text

# A group is told by itself when its lines that leak explain less of its growth than this.
EXPLAINED_SHARE = 0.5
# Lines with less than this of the growth are not told, nor counted.
LINE_SHARE_MIN = 0.01
LINES_MAX = 10
STACKS_MAX = 200


@dataclass(frozen=True)
class _Members:
    """A group's call paths in one analysis, with the growth of each in bytes per second, tables included."""

    stacks: list[int]
    growth: F64
    tables: float

    @property
    def total(self) -> float:
        return float(self.growth.sum())


class Wholes:
    """Groups of a service that were judged, joined with the verdicts on its sites."""

    def __init__(self, data: Data, prices: Prices, sites: Sequence[Judged]) -> None:
        self._data = data
        self._prices = prices
        screens = [each.groups for each in data.analyses]
        routes = np.array([group.is_route for group in data.groups.groups], dtype=bool)
        judged = judge_all(screens, routes) if len(data.groups) else []
        self._judged = looks.confirmed(judged, screens, prices.ended, prices.readings)
        self._of_group = {each.column: each for each in self._judged}
        self._members: dict[tuple[int, int], _Members] = {}
        self._explained = {
            stack
            for each in sites
            if each.judgement.verdict is Verdict.LEAK
            for stack in data.stacks.get(each.column, ())
        }

    def findings(self) -> list[tuple[LeakFinding, int]]:
        """For groups that leak and are not explained by their lines, each with the position of its analysis."""
        leaking = [each for each in self._judged if each.judgement.verdict is Verdict.LEAK]
        leaking.sort(key=lambda each: (not self._group(each).is_route, -each.judgement.bytes_rate.per_second))
        explained = set(self._explained)
        found = []
        for judged in leaking:
            members = self._members_of(judged)
            known = np.array([stack in explained for stack in members.stacks], dtype=bool)
            if members.total <= 0 or float(members.growth[known].sum()) >= EXPLAINED_SHARE * members.total:
                continue
            explained.update(members.stacks)
            finding = self._finding(judged, members)
            if finding is not None:
                found.append((finding, judged.analysis))
        return found

    def completed(self, finding: LeakFinding, judged: Judged) -> LeakFinding:
        """The finding on a site with what its operation keeps altogether."""
        if finding.verdict is not Verdict.LEAK or not finding.per_operation:
            return finding
        first = finding.per_operation[0]
        column = self._data.groups.position(Group(first.operation)) if first.attributed else None
        group = self._of_group.get(column) if column is not None else None
        if group is None or group.analysis < 0:
            return finding
        members = self._members_of(group)
        own = np.array([self._data.sites.site(stack) == judged.column for stack in members.stacks], dtype=bool)
        share = float(np.clip(members.growth[own].sum() / members.total, 0.0, 1.0)) if members.total > 0 else 1.0
        whole = self._whole(group, members, min(share, 0.999))
        return replace(finding, whole=whole if whole.line_count > 1 else None)

    def _group(self, judged: Judged) -> Group:
        return self._data.groups.groups[judged.column]

    def _analysis(self, judged: Judged) -> Analysis:
        return self._data.analyses[judged.analysis]

    def _members_of(self, judged: Judged) -> _Members:
        key = judged.analysis, judged.column
        if key not in self._members:
            growth = self._analysis(judged).growth
            stacks = [each for each in growth.kept if self._data.groups.contains(judged.column, each)]
            tables = growth.tables(stacks)
            slopes = growth.of(stacks)
            grown = [tables.get(stack, slope) for stack, slope in zip(stacks, slopes.tolist(), strict=True)]
            self._members[key] = _Members(stacks, np.array(grown), sum(tables.values()))
        return self._members[key]

    def _whole(self, judged: Judged, members: _Members, share: float) -> Whole:
        kept, added = judged.judgement.kept_rate, members.tables
        rate = Rate(kept.per_second + added, kept.low + added, kept.high + added)
        lines: dict[int, float] = {}
        for stack, grown in zip(members.stacks, members.growth.tolist(), strict=True):
            site = self._data.sites.site(stack)
            lines[site] = lines.get(site, 0.0) + grown
        total = sum(lines.values())
        least = LINE_SHARE_MIN * total
        telling = {site: grown / total for site, grown in lines.items() if total > 0 and grown >= least}
        most = sorted(telling, key=lambda site: -telling[site])[:LINES_MAX]
        sites = self._data.sites.sites
        return Whole(
            name=self._group(judged).name,
            bytes_rate=rate,
            per_operation=self._price(judged, rate),
            share=share,
            line_count=len(telling),
            lines=tuple(LineShare(sites[site].frame, sites[site].application_frame, telling[site]) for site in most),
        )

    def _price(self, judged: Judged, rate: Rate) -> PerOperation | None:
        """Of a route alone; the rate is that of the analysis it was judged in."""
        group = self._group(judged)
        each = self._prices.counted(judged.analysis).per_second.get(group.name, 0.0) if group.is_route else 0.0
        if each <= 0:
            return None
        seconds = self._analysis(judged).groups.blocks.seconds
        objects = judged.judgement.objects_rate.per_second
        return PerOperation(
            group.name,
            rate.per_second / each,
            max(rate.low, 0.0) / each,
            rate.high / each,
            objects / each,
            round(each * seconds),
            attributed=True,
        )

    def _finding(self, judged: Judged, members: _Members) -> LeakFinding | None:
        data, group = self._data, self._group(judged)
        paths = [data.groups.paths.get(stack, ()) for stack in members.stacks]
        place = common_place(paths, members.growth)
        if place is None:
            return None
        whole = self._whole(judged, members, 1.0)
        judgement = judged.judgement
        priced = self._priced(judged, members, whole)
        order = np.argsort(-members.growth, kind="stable").tolist()
        stacks = [members.stacks[at] for at in order if members.growth[at] > 0][:STACKS_MAX]
        end = self._end(members.stacks)
        named = f"for {group.name}" if group.is_route else f"below {group.name}"
        most = [
            f"{line.frame.file.rpartition('/')[2]}:{line.frame.line} ({percent_text(line.share)})"
            for line in whole.lines[:4]
        ]
        sentence = (
            f"The {whole.line_count} lines that grow {named} keep {rate_text(whole.bytes_rate.per_second)} together, "
            "and those that leak by themselves are less than half of it. The place is what most of it goes "
            f"through; most grows at {', '.join(most)}."
        )
        return LeakFinding(
            verdict=judgement.verdict,
            frame=place.frame,
            stacks=tuple(stacks),
            bytes_rate=judgement.bytes_rate,
            objects_rate=judgement.objects_rate,
            live_bytes=end.live,
            live_bytes_stderr=end.variance**0.5,
            live_objects=end.objects,
            samples=round(end.samples),
            p_value=float(judgement.p),
            evidence=(
                *judgement.evidence,
                Evidence("lines", True, sentence),
                *([priced.evidence] if priced.evidence is not None else []),
            ),
            would_change=judgement.would_change,
            instance_ids=judged.instance_ids,
            application_frame=place.application_frame,
            per_operation=priced.operations,
            whole=whole,
        )

    def _priced(self, judged: Judged, members: _Members, whole: Whole) -> operations.Priced:
        if whole.per_operation is not None:
            return operations.Priced((whole.per_operation,), None)
        analysis = self._analysis(judged)
        blocks, column = analysis.groups.blocks, judged.column
        labels: dict[str, list[int]] = {}
        for stack in members.stacks:
            label = self._data.sites.label(stack)
            if label:
                labels.setdefault(label, []).append(stack)
        live = float(blocks.live_last[column])
        return operations.price(
            blocks.times_s,
            blocks.retained[:, column],
            judged.judgement.own_rate,
            float(blocks.objects_last[column]) / live if live > 0 else 0.0,
            float(blocks.weight_last[column]),
            {label: analysis.growth.sum(stacks) for label, stacks in labels.items()},
            self._prices.counted(judged.analysis),
        )

    def _end(self, stacks: Sequence[int]) -> End:
        """What the call paths hold at the end: their parts of what their sites hold."""
        found = End()
        for stack in stacks:
            site = self._data.sites.site(stack)
            held, whole = self._data.stacks.get(site, {}).get(stack, 0.0), self._data.ends.get(site)
            if whole is None or whole.live <= 0:
                continue
            share = held / whole.live
            found.live += held
            found.variance += whole.variance * share
            found.objects += whole.objects * share
            found.samples += whole.samples * share
        return found
