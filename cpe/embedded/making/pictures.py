"""Renders the training pictures from icon packages that name their drawings.

Run as `python -m cpe.embedded.making.pictures FOLDER`: fetches each package with `npm pack`, draws every noun
of every style with resvg on white, and writes FOLDER/<style>/<noun>.png, 64 x 64 pixels.
"""

import argparse
import io
import json
import subprocess
import tarfile
from pathlib import Path

from PIL import Image

from cpe.embedded.subjects import NOUNS, STYLE_PACKAGES

SIZE_PX = 64
SUPERSAMPLING = 4
PACKAGE_VERSIONS = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "emojione": "1.2.3",
    "fluent-emoji": "1.2.7",
}


def render_all(folder: Path) -> int:
    """Draws every noun in every style.

    Args:
        folder: where pictures go; packages are kept in its subfolder `packages`.

    Returns:
        The number of pictures written.

    Raises:
        RuntimeError: npm is missing, or a package cannot be fetched.
        KeyError: a package lacks one of the nouns.
    """
    written = 0
    for style, package in STYLE_PACKAGES.items():
        icons = json.loads(_fetch(package, folder / "packages"))
        (folder / style).mkdir(parents=True, exist_ok=True)
        for noun in NOUNS:
            _draw(icons, noun).save(folder / style / f"{noun}.png")
            written += 1
    return written


def _fetch(package: str, folder: Path) -> bytes:
    """Returns icons.json of one icon package, packed by npm into the folder unless it is there."""
    version = PACKAGE_VERSIONS[package]
    archive = folder / f"iconify-json-{package}-{version}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"@iconify-json/{package}@{version}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise RuntimeError("npm is needed to fetch the icon packages; install Node.js") from None
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None
        return member.read()


def _draw(icons: dict, noun: str) -> Image.Image:
    """Draws one icon on white, rendered large and reduced."""
    import resvg_py

    name = noun
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    large = SIZE_PX * SUPERSAMPLING
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=large, height=large))
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    canvas = Image.new("RGBA", (large, large), "white")
    canvas.alpha_composite(drawing, ((large - drawing.width) // 2, (large - drawing.height) // 2))
    return canvas.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)


def main() -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"{render_all(folder)} pictures in {folder}")


if __name__ == "__main__":
    main()
