from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from distill import architectures, reporting
from distill.batch import ResultHead
from distill.methods.srrl import Connector
from distill.registry import build_network
from distill.spec import NetworkOptions
from distill.students import ReusedHead

OPTIONS = NetworkOptions(width=0.5, stem_stride=2)
SIZE = (12, 10)


@pytest.mark.parametrize("name", ["resnet8", "resnet14", "wrn_10_1", "wrn_16_2"])
def test_macs_are_those_of_the_description(name: str) -> None:
    network = build_network(name, options=OPTIONS, num_classes=5, in_channels=2).eval()
    expected = architectures.macs(name, options=OPTIONS, num_classes=5, in_channels=2, image_size=SIZE)
    assert reporting.count_macs(network, image_shape=(2, *SIZE)).real == expected


def test_macs_of_grouped_and_strided_layers_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 3 * 2, 7)
    ).eval()
    by_hand = (8 * 3 * 2) * (4 // 2 * 3 * 3) + 7 * (8 * 3 * 2)
    assert reporting.count_macs(network, image_shape=(4, 6, 4)).real == by_hand


def test_macs_of_a_reused_head_include_connector_and_classifier() -> None:
    network = build_network("resnet8", options=OPTIONS, num_classes=5, in_channels=2)
    head = ResultHead(connector=Connector(32, 24, relu=True), classifier=nn.Linear(24, 5), facts={"kind": "map"})
    student = ReusedHead(network, head=head).eval()
    map_positions = 2 * 2  # 12 x 10 halved three times, each time rounded up
    expected = (
        architectures.macs("resnet8", options=OPTIONS, num_classes=5, in_channels=2, image_size=SIZE)
        + 32 * 24 * map_positions
        + 24 * 5
    )
    assert reporting.count_macs(student, image_shape=(2, *SIZE)).real == expected


def test_counting_leaves_no_hooks_behind() -> None:
    network = build_network("resnet8", options=OPTIONS, num_classes=5, in_channels=2).eval()
    reporting.count_macs(network, image_shape=(2, *SIZE))
    with pytest.raises(RuntimeError):
        reporting.count_macs(network, image_shape=(3, *SIZE))  # wrong channels
    assert not any(module._forward_hooks for module in network.modules())


def test_costs_are_the_networks_and_leave_it_as_it_was() -> None:
    network = build_network("resnet8", options=OPTIONS, num_classes=5, in_channels=2).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    report = reporting.cost_figures(network, image_shape=(2, *SIZE), num_bytes=1234)

    assert report["parameters"] == architectures.parameters("resnet8", options=OPTIONS, num_classes=5, in_channels=2)
    assert report["bytes"] == 1234
    assert report["latency_ms"] > 0
    json.dumps(report, allow_nan=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
