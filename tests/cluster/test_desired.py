"""The desired state of a cluster without Ray: ownership, epochs, silence, restarts of the controller, and drain."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from vision_infer.cluster.autoscale import IDLE_S
from vision_infer.cluster.desired import JOIN_S, SILENCE_S, Desired
from vision_infer.cluster.state import DesiredCamera, FoundNode


class Site:
    """A controller and workers that obey it, with a clock in seconds."""

    def __init__(self, *nodes: str, cameras: int = 6) -> None:
        self.now_s = 100.0
        self.present = {node: FoundNode({}, 4.0) for node in nodes}
        self.running: dict[str, dict[str, Any]] = {node: {} for node in nodes}
        self.silent: set[str] = set()
        self.kinds: dict[str, str] = {}
        self.costs: dict[str, float] = {}
        self.failing: set[str] = set()
        self.hung: set[str] = set()
        """The nodes whose process does not respond, and obeys no orders."""
        self.configured = {f"c{number}": camera() for number in range(cameras)}
        self.start_controller()

    def start_controller(self) -> None:
        self.desired = Desired(self.ns, int(self.now_s))
        self.desired.configure({"model": "m"}, {name: camera() for name in self.configured})

    @property
    def ns(self) -> int:
        return int(self.now_s * 1e9)

    def report(self, node: str, process: str = "1") -> None:
        plain = {
            "process": f"{node}-{process}",
            "kind": self.kinds.get(node, "x"),
            "alive": node not in self.hung,
            "up": True,
            "ready": node not in self.failing,
            "reason": "",
            "starts": 1,
            "failing": node in self.failing,
            "running": list(self.running[node]),
            "costs": {name: self.costs[name] for name in self.running[node] if name in self.costs},
        }
        if not self.desired.report(node, plain, self.ns):
            assert self.desired.report(node, plain | {"cameras": self.running[node]}, self.ns)

    def step(self, seconds: float = 0.2) -> None:
        """Let all workers report and obey once, and let time pass."""
        self.desired.see_nodes(self.present, self.ns)
        for node in self.present.keys() - self.silent:
            self.report(node)
        self.desired.decide(self.ns)
        for node in self.present.keys() - self.silent - self.hung:
            self.running[node] = self.desired.orders(node)["cameras"]
        self.now_s += seconds

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.2)):
            self.step()

    def owners(self) -> dict[str, list[str]]:
        return {name: [node for node, own in self.running.items() if name in own] for name in self.configured}

    def epochs(self) -> dict[str, int]:
        return {name: camera.epoch for name, camera in self.desired.cameras.items()}


def camera(origin: str = "file") -> DesiredCamera:
    return DesiredCamera({"settings": {"detect": "test://"}, "origin": origin})


def test_each_camera_has_one_owner_and_a_new_epoch_when_its_node_is_lost() -> None:
    site = Site("a", "b", "c")
    site.pass_s(2)
    before, epochs = site.owners(), site.epochs()
    assert sorted(owner for owners in before.values() for owner in owners) == ["a", "a", "b", "b", "c", "c"]
    site.silent.add("b")
    site.pass_s(SILENCE_S - 0.2)
    assert site.owners() == before
    site.pass_s(1)
    site.running["b"] = {}
    for name, owners in site.owners().items():
        assert len(owners) == 1
        moved = before[name] == ["b"]
        assert (owners == before[name]) is not moved
        assert (site.epochs()[name] > epochs[name]) is moved


def test_many_cameras_of_a_lost_node_start_paced() -> None:
    site = Site("a", "b", cameras=100)
    site.pass_s(5)
    assert len(site.running["a"]) == len(site.running["b"]) == 50
    site.silent.add("b")
    counts = []
    for _ in range(40):
        site.step()
        counts.append(len(site.running["a"]))
    steps = [after - before for before, after in pairwise(counts)]
    assert counts[-1] == 100
    assert max(steps) <= 8, "in 0.2 s: four, and a burst of four"
    assert sum(step > 0 for step in steps) >= 10


def test_a_node_that_comes_back_gives_up_what_was_moved() -> None:
    site = Site("a", "b")
    site.pass_s(2)
    site.silent.add("b")
    site.pass_s(SILENCE_S + 1)
    kept = dict(site.running["b"])
    assert len(kept) == 3, "orders do not reach it"
    assert len(site.running["a"]) == 6
    site.silent.clear()
    site.pass_s(1)
    assert site.running["b"] == {}
    assert len(site.running["a"]) == 6, "the owner keeps them"


def test_a_restarted_controller_takes_over_what_runs() -> None:
    site = Site("a", "b", "c")
    site.pass_s(2)
    before = {node: dict(cameras) for node, cameras in site.running.items()}
    for node in before:
        site.now_s += 5
        site.start_controller()
        site.silent = {node}  # its report comes later than those of the others
        site.desired.see_nodes(site.present, site.ns)
        site.step()
        site.silent.clear()
        site.pass_s(SILENCE_S + 1)
        assert site.running == before


def test_a_restarted_controller_gives_no_orders_before_it_knows_what_a_node_runs() -> None:
    site = Site("a", cameras=2)
    site.pass_s(2)
    before = dict(site.running["a"])
    site.start_controller()
    site.desired.see_nodes(site.present, site.ns)
    site.desired.decide(site.ns)
    site.report("a")
    assert site.desired.nodes["a"].version == 0
    site.desired.decide(site.ns)
    assert site.desired.nodes["a"].version == 1
    assert site.desired.orders("a")["cameras"] == before


def test_a_camera_leaves_a_drained_node_before_the_new_one_gets_it() -> None:
    site = Site("a", "b", cameras=2)
    site.pass_s(1)
    site.desired.drain("a", True)
    moving = next(iter(site.running["a"]))
    for _ in range(10):
        site.desired.decide(site.ns)
        assert moving not in site.desired.orders("b")["cameras"], "the old owner has not let it go"
    site.step()
    assert site.owners()[moving] == []
    site.step()
    assert site.owners()[moving] == ["b"]
    site.desired.drain("a", False)
    site.pass_s(1)
    assert site.owners()[moving] == ["b"], "nothing moves back"


def test_a_drained_node_keeps_the_cameras_that_fit_nowhere() -> None:
    site = Site("a", cameras=2)
    site.pass_s(1)
    site.desired.drain("a", True)
    site.pass_s(1)
    assert set(site.running["a"]) == {"c0", "c1"}
    assert site.desired.cameras["c0"].reason == "no node is available"


def test_a_process_that_started_again_has_new_epochs() -> None:
    site = Site("a", cameras=1)
    site.pass_s(1)
    before = site.epochs()["c0"]
    site.report("a", process="2")
    site.desired.decide(site.ns)
    assert site.epochs()["c0"] > before
    assert site.desired.orders("a")["cameras"]["c0"]["epoch"] == site.epochs()["c0"]


def test_a_node_whose_process_cannot_start_loses_its_cameras_to_one_that_is_ready() -> None:
    site = Site("a", "b", cameras=2)
    site.pass_s(1)
    site.failing = {"a", "b"}
    site.pass_s(1)
    assert len(site.running["a"]) == len(site.running["b"]) == 1, "no node is better"
    site.failing = {"a"}
    site.pass_s(1)
    assert (len(site.running["a"]), len(site.running["b"])) == (0, 2)
    site.failing = set()
    site.desired.put("new", camera())
    site.pass_s(1)
    assert "new" in site.running["a"], "it is used again"


def test_a_waiting_camera_of_the_api_that_was_changed_runs_where_it_was_accepted() -> None:
    site = Site("a", "b", cameras=2)
    site.desired.put("new", replace(camera("api"), labels={"site": "rome"}))
    site.pass_s(1)
    assert not site.desired.cameras["new"].granted
    site.running["b"]["new"] = {}
    site.desired.put("new", replace(camera("api"), node="b"))
    assert (site.desired.cameras["new"].node, site.desired.cameras["new"].granted) == ("b", True)
    site.desired.put("new", replace(camera("api"), node="a"))
    assert site.desired.cameras["new"].node == "b", "one that runs stays"


def test_a_suspended_controller_does_not_take_the_workers_for_lost() -> None:
    site = Site("a", "b")
    site.pass_s(2)
    before = site.epochs()
    site.now_s += 60
    site.desired.decide(site.ns)
    site.pass_s(1)
    assert site.epochs() == before


def test_a_node_whose_worker_does_not_start_gets_no_cameras_in_the_end() -> None:
    site = Site("a", "b", cameras=4)
    site.silent.add("b")
    site.pass_s(JOIN_S + 1)
    assert len(site.running["a"]) == 4


def test_removed_and_added_cameras_of_the_file_and_those_of_the_api() -> None:
    site = Site("a", cameras=2)
    site.desired.put("api", camera("api"))
    site.pass_s(1)
    assert set(site.running["a"]) == {"c0", "c1", "api"}
    site.desired.configure({"model": "m"}, {"c1": camera(), "c2": camera()})
    site.pass_s(1)
    assert set(site.running["a"]) == {"c1", "c2", "api"}
    site.desired.remove("api")
    site.pass_s(1)
    assert set(site.running["a"]) == {"c1", "c2"}


def test_a_camera_of_a_hung_process_waits_until_the_process_is_killed() -> None:
    site = Site("a", "b", cameras=1)
    site.pass_s(2)
    old = site.owners()["c0"][0]
    new = {"a": "b", "b": "a"}[old]
    site.hung.add(old)
    site.pass_s(SILENCE_S + 1)
    assert site.desired.cameras["c0"].node == new
    assert site.running[new] == {}, "its worker answers, and has not reported that it has killed the process"
    assert site.desired.nodes[old].reason == "its process has not responded for 3 s"
    site.hung.clear()
    site.pass_s(1)
    assert site.owners()["c0"] == [new]


def test_a_camera_of_a_hung_process_does_not_wait_for_a_lost_worker() -> None:
    site = Site("a", "b", cameras=1)
    site.pass_s(2)
    old = site.owners()["c0"][0]
    site.hung.add(old)
    site.pass_s(SILENCE_S + 1)
    site.silent.add(old)
    site.pass_s(SILENCE_S + 0.4)
    assert list(site.running[{"a": "b", "b": "a"}[old]]) == ["c0"]


def test_a_node_of_another_kind_gets_one_camera_until_its_speed_is_known() -> None:
    site = Site("a", cameras=4)
    site.costs = dict.fromkeys(site.configured, 0.8)
    site.pass_s(2)
    site.present["b"], site.running["b"], site.kinds["b"] = FoundNode({}, 4.0), {}, "y"
    site.pass_s(2)
    site.desired.configure({"model": "m"}, {f"c{number}": camera() for number in range(8)})
    site.step()
    waiting = [one for one in site.desired.cameras.values() if one.reason]
    assert len(waiting) == 3, "node a has no capacity for a fifth camera of 0.8 cores, and node b gets one"
    assert {one.reason for one in waiting} == {"node b is measured with one camera first"}
    site.costs |= {f"c{number}": 0.4 for number in range(4, 8)}
    site.pass_s(2)
    assert not any(one.reason for one in site.desired.cameras.values())
    shown = site.desired.snapshot()
    assert shown["nodes"]["b"]["reference_capacity"] == 2 * shown["nodes"]["a"]["reference_capacity"]
    assert {(one["node"], one["cost"], one["reference_cost"]) for one in shown["cameras"].values()} == {
        ("a", 0.8, 0.8),
        ("b", 0.4, 0.8),
    }


def test_all_parts_of_a_machine_are_drained_together() -> None:
    site = Site("a-gpu0", "a-gpu1", "b", cameras=6)
    for node in ("a-gpu0", "a-gpu1"):
        site.present[node] = FoundNode({"gpu": "true"}, 2.0, "a")
    site.pass_s(2)
    assert [(one.node, one.cameras, one.fit) for one in site.desired.outlook(site.ns)] == [("a", 4, 4), ("b", 2, 2)]
    site.desired.drain("a", True)
    site.pass_s(2)
    assert site.running["b"].keys() == site.configured.keys()
    site.desired.drain("a-gpu1", False)
    assert [site.desired.nodes[node].draining for node in ("a-gpu0", "a-gpu1")] == [True, False]


def test_cameras_without_capacity_request_nodes_and_idle_nodes_are_released() -> None:
    site = Site(cameras=3)
    site.desired.configure({"values": {"autoscale": True}}, {name: camera() for name in site.configured})
    site.costs = dict.fromkeys(site.configured, 0.5)
    site.pass_s(1)
    assert site.desired.requested() == [({"CPU": 1}, {})]
    assert site.desired.cameras["c0"].reason == "no node is available; a node was requested from Ray's autoscaler"
    site.present["a"], site.running["a"] = FoundNode({}, 2.0), {}
    site.pass_s(2)
    assert site.owners() == {name: ["a"] for name in site.configured}, "nothing was measured"
    site.desired.configure({"values": {"autoscale": True}}, {f"c{number}": camera() for number in range(4)})
    site.step()
    assert site.desired.requested() == [({"CPU": 2}, {}), ({"CPU": 1}, {})], "the fourth needs 0.5 cores"
    site.present["b"], site.running["b"] = FoundNode({}, 2.0), {}
    site.pass_s(2)
    assert site.desired.cameras["c3"].node == "b"
    site.desired.remove("c3")
    site.pass_s(IDLE_S + 1)
    assert (site.desired.snapshot()["nodes"]["b"]["state"], site.desired.nodes["a"].parked) == ("idle", False)
    assert site.desired.requested() == [({"CPU": 2}, {})]
    site.silent.add("b")
    site.pass_s(JOIN_S + 1)
    assert not site.desired.nodes["b"].lost
    site.desired.put("c3", camera("api"))
    site.step()
    assert not site.desired.nodes["b"].parked, "its worker starts again"
    site.silent.clear()
    site.pass_s(2)
    assert list(site.running["b"]) == ["c3"]
