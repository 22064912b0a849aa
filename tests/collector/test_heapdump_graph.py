"""Dominators and retained sizes, against networkx and against what deleting a node would free."""

from __future__ import annotations

import random

import networkx
import numpy as np
import pytest
from glassbottom_collector import _graph

pytestmark = pytest.mark.once

NONE = 2**32 - 1
Edges = list[tuple[int, int]]


def rows(nodes: int, edges: Edges) -> tuple[bytes, bytes]:
    """(offsets, targets) as bytes."""
    by_source = sorted(edges, key=lambda edge: edge[0])
    offsets = np.searchsorted([source for source, _ in by_source], np.arange(nodes + 1)).astype(np.uint32)
    return offsets.tobytes(), np.array([target for _, target in by_source], np.uint32).tobytes()


def dominators(nodes: int, edges: Edges, garbage: int = NONE) -> tuple[list[int], list[int]]:
    idoms, order = _graph.dominators(*rows(nodes, edges), 0, garbage)
    return np.frombuffer(idoms, np.uint32).tolist(), np.frombuffer(order, np.uint32).tolist()


def digraph(nodes: int, edges: Edges) -> networkx.DiGraph[int]:
    graph = networkx.DiGraph(edges)
    graph.add_nodes_from(range(nodes))
    return graph


def random_graph(seed: int) -> tuple[int, Edges]:
    """Trees, meshes and everything between, with loops and parallel edges."""
    dice = random.Random(seed)
    nodes = dice.randint(2, 80)
    edges = [(dice.randrange(nodes), dice.randrange(nodes)) for _ in range(int(nodes * dice.choice([0.5, 1.2, 2, 6])))]
    if dice.random() < 0.5:
        edges += [(node, node + 1) for node in range(nodes - 1)]
    return nodes, edges


@pytest.mark.parametrize("first", range(0, 400, 200))
def test_every_dominator_is_the_one_networkx_finds(first: int) -> None:
    for seed in range(first, first + 200):
        nodes, edges = random_graph(seed)
        idoms, _ = dominators(nodes, edges)
        found = {node: idom for node, idom in enumerate(idoms) if idom != NONE and node != 0}
        expected = networkx.immediate_dominators(digraph(nodes, edges), 0)
        assert found == {node: idom for node, idom in expected.items() if node != 0}, f"seed {seed}"


def test_retained_is_exactly_what_would_be_lost_without_the_object() -> None:
    for seed in range(60):
        nodes, edges = random_graph(seed)
        sizes = np.random.default_rng(seed).integers(0, 1000, nodes).astype(np.uint64)
        idoms, order = _graph.dominators(*rows(nodes, edges), 0, NONE)
        retained = np.frombuffer(_graph.sum_up(idoms, order, sizes.tobytes()), np.uint64)
        graph = digraph(nodes, edges)
        reached = {0, *networkx.descendants(graph, 0)}
        for node in reached - {0}:
            without = graph.copy()
            without.remove_node(node)
            lost = reached - {0, *networkx.descendants(without, 0)}
            assert int(retained[node]) == int(sizes[list(lost)].sum()), f"seed {seed}, node {node}"


def test_garbage_is_held_by_garbage_and_holds_nothing_that_lives() -> None:
    """The same dominators as if `garbage` led to one node of each cycle nothing else leads to, and to no living one."""
    for seed in range(150):
        nodes, edges = random_graph(seed)
        garbage = nodes
        idoms, _ = dominators(nodes + 1, edges, garbage)
        graph = digraph(nodes, edges)
        alive = {0, *networkx.descendants(graph, 0)}
        dead = graph.subgraph(set(range(nodes)) - alive).copy()
        condensed = networkx.condensation(dead)
        whole = networkx.DiGraph(edge for edge in edges if (edge[0] in alive) == (edge[1] in alive))
        whole.add_edge(0, garbage)
        for component in (each for each in condensed if condensed.in_degree(each) == 0):
            members = condensed.nodes[component]["members"]
            (start,) = (node for node in members if idoms[node] == garbage)
            whole.add_edge(garbage, start)
        expected = networkx.immediate_dominators(whole, 0)
        assert {node: idoms[node] for node in range(1, nodes)} == {node: expected[node] for node in range(1, nodes)}, (
            f"seed {seed}"
        )


def test_what_a_group_retains_counts_nothing_twice() -> None:
    for seed in range(60):
        nodes, edges = random_graph(seed)
        sizes = np.ones(nodes, np.uint64).tobytes()
        idoms, order = _graph.dominators(*rows(nodes, edges), 0, NONE)
        retained = _graph.sum_up(idoms, order, sizes)
        groups = np.random.default_rng(seed).integers(0, 4, nodes).astype(np.uint32)
        found = np.frombuffer(
            _graph.retained_by_group(*_graph.children(idoms), 0, groups.tobytes(), 3, retained), np.uint64
        )
        by_node = np.frombuffer(retained, np.uint64)
        parents = np.frombuffer(idoms, np.uint32).tolist()
        expected = [0, 0, 0]
        for node in (node for node in range(nodes) if parents[node] != NONE and groups[node] < 3):
            above, alone = node, True
            while above != 0:
                above = parents[above]
                alone = alone and groups[above] != groups[node]
            expected[groups[node]] += int(by_node[node]) if alone else 0
        assert found.tolist() == expected, f"seed {seed}"


@pytest.mark.parametrize("shape", ["list", "list and back", "all from one", "ladder"])
def test_hundreds_of_thousands_of_links_are_no_deeper_than_one(shape: str) -> None:
    """Nothing recurses and nothing is quadratic: the timeout of the test is the limit."""
    count = 300_000
    chain = [(node, node + 1) for node in range(count - 1)]
    more = {
        "list": [],
        "list and back": [(node + 1, node) for node in range(count - 1)],
        "all from one": [(0, node) for node in range(1, count)],
        "ladder": [(node, node + 2) for node in range(count - 2)],
    }[shape]
    sources, targets = np.array(chain + more, np.uint32).T
    by_source = np.argsort(sources, kind="stable")
    offsets = np.searchsorted(sources[by_source], np.arange(count + 1)).astype(np.uint32)
    idoms, _ = _graph.dominators(offsets.tobytes(), targets[by_source].tobytes(), 0, NONE)
    expected = {
        "list": np.arange(-1, count - 1),
        "list and back": np.arange(-1, count - 1),
        "all from one": np.zeros(count),
        "ladder": np.zeros(count),
    }[shape]
    assert (np.frombuffer(idoms, np.uint32)[1:] == expected[1:]).all()


@pytest.mark.parametrize(
    ("offsets", "targets", "root"),
    [([0, 1], [0], 0), ([0, 2, 1], [0, 0], 0), ([0, 1, 2], [0, 2], 0), ([0, 1, 9], [0], 0), ([0, 1, 2], [0, 1], 2)],
)
def test_arrays_that_do_not_fit_together_are_refused(offsets: list[int], targets: list[int], root: int) -> None:
    with pytest.raises(ValueError, match="must"):
        _graph.dominators(np.array(offsets, np.uint32).tobytes(), np.array(targets, np.uint32).tobytes(), root, NONE)


@pytest.mark.parametrize("edges", [[(0, 1), (1, 2)], [(0, 1), (2, 1)], [(1, 2)]])
def test_garbage_that_is_part_of_the_graph_is_refused(edges: Edges) -> None:
    """It would be numbered twice."""
    with pytest.raises(ValueError, match="garbage must be a node without edges"):
        dominators(3, edges, garbage=2)
