"""Samples of a prior and its reconstructions of test images, as figures.

    python benchmarks/prior_figures.py faces --images faces_test.npz --number 10

Writes results/NAME_samples.png and, with images (an .npz, .npy or folder, see ``load_images``),
results/NAME_reconstructions.png, and prints the reconstruction PSNR over all of them.
Reconstructions are drawn without the images they are of unless --originals is given: some data may
not be published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from timer import RESULTS

import jpmap_fast as jf
from jpmap_fast._figures import Row, save_grid
from jpmap_fast.data.readers import load_images
from jpmap_fast.training import reconstruction_psnr


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prior", help="name or path")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--key")
    parser.add_argument("--originals", action="store_true")
    parser.add_argument("--number", type=int, default=10)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    prior = jf.load_prior(options.prior)
    name, number = Path(options.prior).stem, options.number

    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(options.rows * number, prior.latent_dim, generator=generator)
    samples = prior.decode(codes).split(number)
    title = f"Prior {name}: samples, G(z) with z from N(0, I)"
    save_grid(options.output / f"{name}_samples.png", title, [Row("", rows) for rows in samples])
    if options.images is None:
        return
    images = load_images(options.images, key=options.key, image_shape=prior.image_shape).images
    print(f"reconstruction PSNR, {len(images)} images: {reconstruction_psnr(prior, images):.2f} dB")
    shown = images[: options.rows * number]
    decoded = prior.decode(prior.encode(shown)[0])
    rows = []
    for before, after in zip(shown.split(number), decoded.split(number), strict=True):
        if options.originals:
            rows.append(Row("image", before))
        rows.append(Row("G(mu(x))" if options.originals else "", after))
    title = f"Prior {name}: reconstructions of test images, G(mu(x))"
    save_grid(options.output / f"{name}_reconstructions.png", title, rows)


if __name__ == "__main__":
    main()
