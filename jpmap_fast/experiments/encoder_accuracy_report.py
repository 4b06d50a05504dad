"""Tables and sentences about the encoder's Gaussian and the posterior it stands for."""

from __future__ import annotations

from torch import Tensor

from jpmap_fast.experiments.section import Table

Summary = dict[str, float]

CLOSENESS = ("mean", "median", "relative", "agreement", "exact", "approximate")
SPREAD = ("away", "coordinates", "digits", "fixed", "free", "std")


def summarise(one: dict[str, Tensor]) -> Summary:
    """The numbers of the tables for one level of noise, from ``encoder_accuracy.measure``."""
    away = one["whitened"].abs()
    inside = (away <= 2).double()
    fixed, free = ((one["std"] / one[name]).double() for name in ("conditional", "marginal"))
    return {
        "mean": float(one["excess"].mean()),
        "median": float(one["excess"].median()),
        "relative": 100 * float((one["excess"] / one["least"]).mean()),
        "agreement": float(one["agreement"].mean()),
        "exact": float(one["exact_psnr"].mean()),
        "approximate": float(one["approximate_psnr"].mean()),
        "away": float(away.square().mean(dim=1).sqrt().median()),
        "coordinates": 100 * float(inside.mean()),
        "digits": 100 * float(inside.amin(dim=1).mean()),
        "fixed": float(fixed.log().mean().exp()),
        "free": float(free.log().mean().exp()),
        "std": float(one["std"].mean()),
    }


def tables(summary: dict[int, Summary], digits: int, starts: int, k: int) -> list[Table]:
    """Where the encoder's mean lies, and how its Gaussian fits.

    Args:
        summary: from ``summarise``, by noise of x0 times 255.
        digits: number of images behind it.
        starts: of the search for the exact optimum.
        k: latent dimensions.
    """
    closeness = Table(
        f"The encoder's code against the exact optimum, {digits} test digits",
        [
            "noise of x0 (/255)",
            "J1 above its least, mean (nats)",
            "median (nats)",
            "relative, mean (%)",
            "PSNR between the two decodings (dB)",
            "exact one to the clean digit (dB)",
            "encoder's one to the clean digit (dB)",
        ],
        [[level, *(s[key] for key in CLOSENESS)] for level, s in summary.items()],
        f"The exact optimum is the best of {starts} descents by Gauss-Newton, one of them from the "
        f"encoder's code. Draws from a Gaussian posterior would be k/2 = {k / 2:g} nats above the "
        "least on average. The relative figure falls with the noise because J1 at its least then "
        "holds the energy of the noise.",
    )
    spread = Table(
        f"The encoder's Gaussian against the posterior, {digits} test digits",
        [
            "noise of x0 (/255)",
            "distance of the codes (sigma of the encoder, per coordinate)",
            "coordinates within +-2 sigma (%)",
            "digits with all within (%)",
            "sigma over Laplace, others fixed",
            "sigma over Laplace, others free",
            "sigma of the encoder, mean (latent units)",
        ],
        [[level, *(s[key] for key in SPREAD)] for level, s in summary.items()],
        "Distance: root mean square over the coordinates, median over the digits. Laplace: the "
        "exact Hessian H of J1(x0, .) at the optimum; H_ii^(-1/2) with the other coordinates "
        "fixed, which is what the nearest Gaussian with independent coordinates would have, and "
        "(H^-1)_ii^(1/2) with them free. Ratios: geometric means.",
    )
    return [closeness, spread]


def paragraphs(summary: dict[int, Summary], digits: int, gamma: float, k: int) -> list[str]:
    """What was done and what came out; arguments as in ``tables``."""
    low, high = min(summary), max(summary)
    first, last = summary[low], summary[high]
    closer = "closer" if first["agreement"] > first["exact"] else "less close"
    inside = "inside" if last["median"] < k else "far outside"
    better = [level for level, s in summary.items() if s["exact"] > s["approximate"]]
    gains = (
        "every level" if len(better) == len(summary) else f"{len(better)} of {len(summary)} levels"
    )
    width = all(0.75 <= s["fixed"] <= 1.33 for s in summary.values())
    place = all(s["coordinates"] >= 90 for s in summary.values())
    return [
        "The encoder gives a Gaussian q(z | x0) = N(mu_phi(x0), Sigma_phi(x0)) with independent "
        "coordinates for the posterior p(z | x0), proportional to exp(-J1(x0, z)), J1(x0, z) = "
        f"||x0 - G(z)||^2 / (2 gamma^2) + ||z||^2 / 2 with gamma = {gamma:.4f} and k = {k}. "
        f"Both are compared at {digits} test digits, clean and with Gaussian noise added: the "
        "encoder was trained on digits with noise 15/255 (the denoising criterion of the paper), "
        "so that it should know what to do with an x0 off the manifold.",
        f"In the image: the two decodings agree to {first['agreement']:.1f} dB on clean digits, "
        f"{closer} than a digit and its best decoding ({first['exact']:.1f} dB), and to "
        f"{last['agreement']:.1f} dB at noise {high}/255.",
        f"In the posterior: J1 at the encoder's code lies {first['median']:.0f} nats (median) "
        f"above its least on clean digits and {last['median']:.0f} nats at noise {high}/255, "
        f"{inside} the about {k / 2:g} nats of draws from the posterior. The optimum lies "
        f"{first['away']:.1f} of the encoder's standard deviations a coordinate away from its mean "
        f"(median, clean; {last['away']:.1f} at {high}/255): within +-2 of them in "
        f"{first['coordinates']:.0f}% of the coordinates ({last['coordinates']:.0f}% at "
        f"{high}/255), and in every coordinate for {first['digits']:.0f}% of the digits "
        f"({last['digits']:.0f}%).",
        f"The widths: the encoder's standard deviations are {first['fixed']:.2f} times those of "
        f"Laplace's approximation with the other coordinates fixed ({last['fixed']:.2f} at "
        f"{high}/255) and {first['free']:.2f} times those with them free ({last['free']:.2f}). "
        f"From clean to {high}/255 the mean of the encoder's standard deviation goes from "
        f"{first['std']:.3f} to {last['std']:.3f}, while the distance of its mean from the optimum "
        f"in units of it goes from {first['away']:.1f} to {last['away']:.1f}: the width does not "
        "say how far off the mean is.",
        "In the restored digit: against the clean one the decoded exact optimum has "
        f"{first['exact']:.1f} dB and the encoder's code {first['approximate']:.1f} dB for clean "
        f"x0, {last['exact']:.1f} and {last['approximate']:.1f} dB at noise {high}/255; the exact "
        f"one is better on average at {gains} of the noise.",
        "Of the claim that the encoder's Gaussian approximates the posterior, the width "
        f"{'holds' if width else 'does not hold'} (asked: sigma within a third of Laplace's at "
        f"every level of noise) and the place {'holds' if place else 'does not'} (asked: the "
        "optimum within two sigma in nine coordinates of ten at every level): "
        + ("the code can be used as it is." if place else "the code is a start for a descent."),
    ]
