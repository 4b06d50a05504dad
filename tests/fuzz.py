"""Mutated files for every reader and loader: `python tests/fuzz.py TARGET --cases N --seed S`.

A target reads a file or says by a ValueError, TypeError or OSError what is wrong with it. Any other
error, a hang or a crash is a fault; the file that made it is kept and named.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image

import jpmap_fast as jf
from jpmap_fast.data import load_images, load_kernel, load_mask
from jpmap_fast.denoisers.weights import read_denoiser

SECONDS = 20  # a reader that takes longer hangs
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def _saved(array: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _tiff(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def _numpy(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _pictures() -> dict[str, list[bytes]]:
    more = [Image.fromarray(255 - GREY)]
    return {
        ".png": [
            _saved(GREY, "PNG"),
            _saved(COLOUR, "PNG"),
            _saved(GREY > 9, "PNG"),
            imagecodecs.png_encode(COLOUR.astype(np.uint16) * 257),
        ],
        ".tif": [
            _tiff(GREY),
            _tiff(np.stack([GREY] * 5), photometric="minisblack"),
            _tiff(COLOUR, photometric="rgb", compression="lzw"),
            _tiff(GREY.astype(np.float32) / 255, byteorder=">"),
        ],
        ".gif": [_saved(GREY, "GIF", save_all=True, append_images=more)],
        ".jpg": [_saved(COLOUR, "JPEG")],
        ".bmp": [_saved(COLOUR, "BMP")],
        ".webp": [_saved(COLOUR, "WEBP", lossless=True)],
        ".pgm": [_saved(GREY, "PPM")],
    }


def _prior() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        jf.save_prior(jf.MLPVAE((1, 4, 4), 2, (5,)), path)
        return path.read_bytes()


def _denoiser() -> bytes:
    from jpmap_fast.denoisers import save_denoiser
    from jpmap_fast.denoisers.lipschitz import LipschitzDenoiser

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.safetensors"
        save_denoiser(LipschitzDenoiser((1, 6, 6), width=4, depth=3), path)
        return path.read_bytes()


def _original() -> bytes:
    buffer = io.BytesIO()
    torch.save({"gamma_x": torch.ones(1), "encoder_layers.0.weight": torch.ones(2, 3)}, buffer)
    return buffer.getvalue()


def _read_original(path: Path) -> None:
    folder = path.parent / "original"
    folder.mkdir(exist_ok=True)
    settings = {"network_structure": "VAEfc", "x_shape": [1, 1, 3], "latent_dim": 1}
    (folder / "training_args.json").write_text(json.dumps({**settings, "enc_hidden_dims": [2]}))
    (folder / "model").write_bytes(path.read_bytes())
    jf.load_prior(folder)


def targets() -> dict[str, tuple[Callable[[Path], Any], dict[str, list[bytes]]]]:
    """Reader and valid files by suffix, of each name."""
    arrays = {
        ".npy": [_npy(GREY[None]), _npy(COLOUR[None] / 255)],
        ".npz": [_numpy(images=GREY[None]), _numpy(a=GREY[None] / 255, b=GREY)],
    }
    header = b"\x00\x00\x08\x03" + np.array([2, 6, 5], ">u4").tobytes()
    return {
        "pictures": (load_images, _pictures()),
        "arrays": (load_images, arrays),
        "idx": (load_images, {"-idx3-ubyte": [header + bytes(60)]}),
        "masks": (load_mask, {**_pictures(), **arrays}),
        "kernels": (load_kernel, {**_pictures(), **arrays}),
        "priors": (jf.load_prior, {".safetensors": [_prior()], ".pt": [_original()]}),
        "denoisers": (read_denoiser, {".safetensors": [_denoiser()]}),
        "original": (_read_original, {".model": [_original()]}),
    }


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """A file with some bytes changed, cut, repeated or overwritten by large numbers."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        if not data:
            break
        place = int(generator.integers(len(data)))
        match int(generator.integers(6)):
            case 0:
                data[place] ^= 1 << int(generator.integers(8))
            case 1:
                data[place] = int(generator.integers(256))
            case 2:
                del data[place:]
            case 3:
                del data[place : place + int(generator.integers(1, 9))]
            case 4:
                part = data[place : place + int(generator.integers(1, 33))]
                other = int(generator.integers(len(data) + 1))
                data[other:other] = part
            case _:
                large = generator.choice([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1])
                order = "little" if generator.integers(2) else "big"
                data[place : place + 4] = int(large).to_bytes(4, order)
    return bytes(data)


def _hang(*_: Any) -> None:
    raise TimeoutError("hangs")


def fuzz(name: str, cases: int, seed: int, folder: Path) -> dict[str, Any]:
    """Counts of files read and refused.

    Raises:
        AssertionError: a fault; the text names the file that made it.
    """
    read, kinds = targets()[name]
    seeds = [(suffix, content) for suffix, found in kinds.items() for content in found]
    counts = {"read": 0, "refused": 0}
    slowest = 0.0
    signal.signal(signal.SIGALRM, _hang)
    for case in range(cases):
        generator = np.random.default_rng([seed, case])
        suffix, content = seeds[int(generator.integers(len(seeds)))]
        path = folder / f"case{suffix}"
        path.write_bytes(mutated(content, generator))
        signal.alarm(SECONDS)
        begin = time.perf_counter()
        try:
            read(path)
            counts["read"] += 1
        except TimeoutError as error:
            raise AssertionError(f"{name}, seed {seed}, case {case}: hangs, {path}") from error
        except (ValueError, TypeError, OSError):
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(
                f"{name}, seed {seed}, case {case}: {type(error).__name__}: {error}, {path}"
            ) from error
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - begin)
    return {**counts, "slowest_s": round(slowest, 2)}


def main() -> None:
    """Run one target, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[*targets(), "all"])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = list(targets()) if options.target == "all" else [options.target]
    folder = Path(tempfile.mkdtemp())
    for name in names:
        print(name, fuzz(name, options.cases, options.seed, folder), flush=True)


if __name__ == "__main__":
    sys.exit(main())
