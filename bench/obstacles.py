"""What a config asks for by name and this machine may lack: a tracker, an arithmetic, kernels, a compiler. A run is
refused for it before it begins: its worker, which would refuse as well, first makes its folder and reads its data."""

from __future__ import annotations

from dataclasses import astuple

from bench.config import Config


def check_here(config: Config) -> None:
    """UserError where the config names what can't be had here. Imports torch only where it names something."""
    if config.train.tracker:
        from bench.training import check_tracker

        check_tracker(config.train.tracker)
    own = config.train
    if own.precision == "auto" and own.compile != "on" and set(astuple(config.kernels)) == {"auto"}:
        return
    from bench.assembly import device_here, kernels_for
    from bench.training import compiles, precision

    device = device_here()
    precision(config, device)
    kernels_for(config, device)
    compiles(config, device)
