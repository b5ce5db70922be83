"""Networks of the published form and few channels; as a program, `run.py` with these."""

import sys
from pathlib import Path

from propainter import Networks, build_networks
from propainter.models.networks import fill_seeded


def narrow_networks() -> Networks:
    """All three with seeded weights."""
    networks = build_networks(
        raft=dict(encoder_layers=(16, 16, 24, 32, 64), hidden_size=32, corr_layers=(32, 24), flow_layers=(16, 8)),
        flow_completion=dict(channels=16),
        generator=dict(channels=32, hidden=64, depth=3, heads=2, mlp_hidden=98),
    )
    for name in networks.names:
        for key, weight in getattr(networks, name).state_dict().items():
            if weight.is_floating_point():
                fill_seeded(weight, key, "narrow")
    return networks


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from experiments.data import weights
    from experiments.launch import cli

    weights.empty_networks, weights.load_seeded = narrow_networks, lambda *options: None
    cli.main()
