"""How the engine runs a model on this device, and the figures that say so.

Values only, so that the app's process may hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeagent.engine.costs import MAX_PASS, Costs, pays

MEASURED = "measured"
K_TYPES = ("f16", "q8_0")


@dataclass(frozen=True, slots=True)
class Setting:
    """How a context is opened; all but the threads shape what it computes and keeps."""

    n_threads: int = 1
    """Of passes of up to `MAX_PASS` tokens."""
    flash_attention: bool = False
    """Slower on most CPUs below 64 rows (118 against 72 ms per token for 1.7B at a depth of
    3,072), faster on some."""
    k_type: str = "f16"
    """One of `K_TYPES`; V stays f16, a quantized one falls to a slow path."""

    @property
    def key(self) -> str:
        """What tells apart states that do not fit each other."""
        attention = "flash-attention" if self.flash_attention else "no-flash-attention"
        return f"{'f16' if self.k_type == 'f16' else f'k-{self.k_type}-v-f16'}-kv {attention}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to open a context, and milliseconds of a pass over each of `SIZES` in it."""

    setting: Setting
    ms: tuple[float | None, ...]
    """None where it was not measured, because it had lost already."""
    drift: float = 0.0
    """As in `Costs`."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the engine runs with on this device."""

    setting: Setting
    costs: Costs | None
    """None: nothing is guessed and nothing is padded."""
    reason: str
    """`measured`, or why there are no figures."""
    depth: int = 0
    """Tokens in the context while it was measured."""
    tried: tuple[Measured, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows of logits that one pass may need."""
        return MAX_PASS if self.costs is not None and pays(self.costs) else 1


def untuned(setting: Setting, reason: str, tried: tuple[Measured, ...] = ()) -> Table:
    """Return what holds where nothing is known: one guess-free pass per choice, f16, no FA."""
    return Table(setting, None, reason, tried=tried)
