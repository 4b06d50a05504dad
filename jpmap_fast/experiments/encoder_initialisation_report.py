"""Tables and sentences about starts of a descent in the latent space."""

from __future__ import annotations

import math
from collections.abc import Callable

from jpmap_fast.experiments.encoder_initialisation_outcomes import (
    ADAM,
    NATS,
    NEWTON,
    Arrivals,
    Summary,
)
from jpmap_fast.experiments.section import Cell, Table

COUNTS = (1, 2, 5, 10, 20)  # starts in the table


def tables(summary: dict[int, Summary], digits: int, starts: int, adam_steps: int) -> list[Table]:
    """Arrivals and best of K.

    Args:
        summary: by noise of x0 times 255.
        digits: number of images behind it.
        starts: random starts an image by Gauss-Newton.
        adam_steps: most steps of Adam.
    """
    arrivals: list[list[Cell]] = []
    several: list[list[Cell]] = []
    for level, one in summary.items():
        for method, a in one.arrivals.items():
            cells: list[Cell] = [level, method]
            for share in (a.encoder, a.zero, a.random, a.encoder_relative, a.random_relative):
                cells.append(100 * share)
            cells += [a.encoder_steps, a.zero_steps, a.random_steps, a.lost]
            arrivals.append(cells)
        a = one.arrivals[NEWTON]
        cells = [level, 100 * a.encoder]
        for count in COUNTS:
            cells.append(100 * a.curve[count - 1] if count <= len(a.curve) else None)
        cells.append(100 * a.joined[:5][-1])
        needed = [_count(a.needed(share), starts) for share in (0.95, 0.99)]
        several.append([*cells, *needed, one.different, one.most, one.norm])
    first = Table(
        f"Who reaches the best known J1, {digits} test digits",
        [
            "noise of x0 (/255)",
            "descent",
            "from the encoder's code (%)",
            "from z = 0 (%)",
            "from random starts (%)",
            "the same within 0.1% of J1, encoder (%)",
            "random (%)",
            "steps from the encoder's code",
            "from z = 0",
            "from random starts",
            "J1 above the best of those that do not (nats)",
        ],
        arrivals,
        f"Reached: within {NATS} nats of the least J1 that any descent found, whatever the noise "
        "(0.1% of J1 is a looser test the noisier x0 is, for J1 holds the energy of its noise). "
        "Steps: median of the descents that reach it, until the method's own stopping test; a step "
        "of Gauss-Newton computes the Jacobian, one of Adam a gradient. Adam: learning rate 0.01 "
        f"and ||gradient|| / k < 1e-4, as published, at most {adam_steps} steps. Last column: "
        "median over the random starts.",
    )
    second = Table(
        f"Several random starts in place of the encoder, Gauss-Newton, {digits} test digits",
        [
            "noise of x0 (/255)",
            "encoder's code alone (%)",
            *(f"best of {k} random (%)" for k in COUNTS),
            "encoder's code and 4 random (%)",
            "random starts for 95%",
            "for 99%",
            "different ends, mean",
            "most",
            "||z|| at the best, root mean square",
        ],
        several,
        f"Best of K: the mean over all choices of K out of {starts} starts. Different ends: of "
        f"{2 + starts} descents. A draw of N(0, I) has ||z|| = sqrt(k) in the root mean square.",
    )
    return [first, second]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share in (0.0, 1.0) else f"{100 * share:.1f}%"


def _steps(median: float) -> str:
    return "no number of" if math.isnan(median) else f"{median:.0f}"


def _ratio(arrivals: Arrivals) -> str:
    return f"{10 * arrivals.random_steps / arrivals.encoder_steps:.0f}"


def _count(needed: int | None, starts: int) -> int | str:
    return f"more than {starts}" if needed is None else needed


def _over(values: dict[int, str]) -> str:
    """Values by level of noise as "a (clean), b (110/255)"; one alone where all are the same."""
    if len(set(values.values())) == 1 < len(values):
        return next(iter(values.values()))
    return ", ".join(
        f"{value} ({f'{level}/255' if level else 'clean'})" for level, value in values.items()
    )


def paragraphs(
    summary: dict[int, Summary], digits: int, starts: int, adam_steps: int, k: int
) -> list[str]:
    """What was done and what came out; arguments as in ``tables``, and k latent dimensions."""
    newton = {level: one.arrivals[NEWTON] for level, one in summary.items()}
    adam = {level: a for level, one in summary.items() if (a := one.arrivals.get(ADAM))}
    every = [*newton.values(), *adam.values()]

    def of(found: dict[int, Arrivals], value: Callable[[Arrivals], str]) -> str:
        return _over({level: value(a) for level, a in found.items()})

    different = _over({level: f"{one.different:.0f}" for level, one in summary.items()})
    norms = _over({level: f"{one.norm:.1f}" for level, one in summary.items()})
    zero = "better than" if all(a.zero > a.random for a in every) else "not always better than"
    short = any(a.zero < a.encoder for a in every)
    behind = [level for level, a in newton.items() if a.curve[:10][-1] < a.encoder - 0.01]
    differences = [abs(a.encoder - a.encoder_relative) for a in every]
    differences += [abs(a.random - a.random_relative) for a in every]
    low = min(a.encoder for a in every)
    better = sum(a.encoder > a.random for a in every)
    return [
        "The paper shows descents of J1(x0, .) that find the best code from the encoder's "
        "mu_phi(x0) and end elsewhere from random starts. Here the same descents, by Adam as "
        "published and by damped Gauss-Newton, begin at the encoder's code and at draws from "
        f"N(0, I) ({starts} an image by Gauss-Newton), on {digits} test digits, clean and noisy.",
        "By Adam the encoder's start reaches the best J1 known for "
        f"{of(adam, lambda a: _percent(a.encoder))} of the digits, a random start in "
        f"{of(adam, lambda a: _percent(a.random))} of the cases, within {adam_steps} steps. Those "
        f"that arrive take {of(adam, lambda a: _steps(a.encoder_steps))} steps from the encoder's "
        f"code and {of(adam, lambda a: _steps(a.random_steps))} from random starts (medians).",
        "By Gauss-Newton the encoder's start reaches it for "
        f"{of(newton, lambda a: _percent(a.encoder))} of the digits, in "
        f"{of(newton, lambda a: _steps(a.encoder_steps))} steps (median); a random start in "
        f"{of(newton, lambda a: _percent(a.random))} of the cases, in "
        f"{of(newton, lambda a: _steps(a.random_steps))} steps. The others end elsewhere: the "
        f"descents of a digit have {different} different ends on average. Draws of N(0, I) begin "
        f"far from the codes of digits, whose ||z|| is {norms} (root mean square) where that of a "
        f"draw is {k**0.5:.1f}.",
        "The single start z = 0, which CSGM takes in the authors' code, reaches the best by "
        f"Gauss-Newton for {of(newton, lambda a: _percent(a.zero))} of the digits and by Adam for "
        f"{of(adam, lambda a: _percent(a.zero))}: {zero} a random one, "
        f"{'short of' if short else 'as good as'} the encoder's.",
        "Does the encoder still matter when a descent takes so few steps? The best of ten random "
        f"starts reaches the best J1 for {of(newton, lambda a: _percent(a.curve[:10][-1]))} of "
        "the digits; for 99% of them it takes "
        f"{of(newton, lambda a: str(_count(a.needed(0.99), starts)))} random starts. "
        + (
            "So ten random starts do as well as the encoder's one, within a percentage point, at "
            "every level of noise: the encoder saves work, and is not needed to find the best. "
            if not behind
            else f"So ten random starts stay more than a percentage point behind the encoder's "
            f"single one at {len(behind)} of {len(newton)} levels of noise. "
        )
        + f"Ten random starts take {of(newton, lambda a: _ratio(a))} times its steps; the "
        "encoder's code with four random starts reaches the best for "
        f"{of(newton, lambda a: _percent(a.joined[:5][-1]))}.",
        "What holds of the paper's claim: the encoder's start does better than a random one in "
        f"{better} of the {len(every)} cases of method and noise. That it always finds the best "
        + ("holds on this sample" if low == 1 else f"does not hold: {_percent(low)} at the least")
        + "; that random starts do not is too strong: they do in "
        f"{_percent(min(a.random for a in every))} to {_percent(max(a.random for a in every))}. "
        f"The two tests of having arrived, {NATS} nats and 0.1% of J1, give shares that differ by "
        f"{100 * max(differences):.1f} percentage points at most.",
    ]
