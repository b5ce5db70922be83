"""What a check goes by, and what it finds."""

from dataclasses import dataclass, field

FINE, REGRESSION, NOT_COMPARABLE = 0, 1, 2


@dataclass(frozen=True)
class Bounds:
    """Hold what is still fine.

    psnr_drop_db: the hole's PSNR may fall by this. psnr_floor_db: and not under this. ssim_drop, lpips_rise: these may
    get worse by this. slower: share by which time, memory and a paired speedup may get worse. reference_psnr_db: on
    another torch or processor a frame of the reference may be this far from the baseline's, and PSNR of at least this
    counts as equal. truth_psnr_drop_db: the hole's PSNR against the truth may fall by this.
    """

    psnr_drop_db: float = 0.5
    psnr_floor_db: float | None = None
    ssim_drop: float = 0.005
    lpips_rise: float = 0.01
    slower: float = 0.05
    reference_psnr_db: float = 60.0
    truth_psnr_drop_db: float = 0.2


@dataclass(frozen=True)
class Finding:
    """Hold a figure of a variant (or of the "reference") that got worse, before and after with intervals, as text."""

    variant: str
    figure: str
    before: str
    after: str
    why: str


@dataclass
class Outcome:
    """Hold what a check found. `compared`: the variants' labels -> what was compared of them."""

    regressions: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_comparable: list[str] = field(default_factory=list)
    compared: dict[str, list[str]] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """Return 0 fine, 1 regression, 2 not comparable."""
        return REGRESSION if self.regressions else NOT_COMPARABLE if self.not_comparable else FINE
