"""What a run shows in Prefect: its table of results, before and after, and the way to the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.here.clock import within_task


def show_results(results: dict[str, Any]) -> None:
    """Publishes a run's figures as a table artifact; does nothing outside a Prefect run."""
    if not within_task():
        return
    from prefect.artifacts import create_table_artifact

    rows = [
        {"measure": f"accuracy on {role} concepts", **{key: results[role][key] for key in ("before", "after", "count")}}
        for role in ("erased", "kept")
    ]
    rows.append({"measure": "H0", "before": None, "after": results["h0"], "count": None})
    model = f"{results['model']} version {results['version']}{', champion' if results['champion'] else ''}"
    create_table_artifact(
        table=rows, key=f"{results['list'].lower()}-results", description=f"{results['list']}: {model}"
    )


def show_comparison(found: dict[str, Any]) -> None:
    """Publishes a comparison as a table artifact, with the way to its page; does nothing outside a Prefect run."""
    if not within_task():
        return
    from prefect.artifacts import create_link_artifact, create_table_artifact

    rows = [
        {
            "method": row["method"],
            "seed": row["seed"],
            **{role: row[role] for role in ("erased", "kept")},
            "H0": row["h0"],
            "seconds": row["seconds"],
        }
        for row in found["rows"]
    ]
    page = Path(found["page"])
    key = f"{found['list'].lower()}-comparison"
    create_table_artifact(table=rows, key=key, description=f"{found['list']}: ways of erasing, compared")
    create_link_artifact(link=page.as_uri(), link_text=page.name, key=f"{key}-page", description="Comparison")


def show_report(name: str, report: Path, before: Sequence[bytes], after: Sequence[bytes]) -> None:
    """Publishes a link to the report and a sheet of pictures; does nothing outside a Prefect run.

    Args:
        name: of the list.
        report: the HTML file.
        before: PNG files of the erased concepts, drawn by the untouched model.
        after: the same prompts and seeds with the concepts erased.
    """
    if not within_task():
        return
    from prefect.artifacts import create_image_artifact, create_link_artifact

    create_link_artifact(
        link=report.as_uri(), link_text=report.name, key=f"{name.lower()}-report", description="Report"
    )
    if before:
        sheet = base64.b64encode(contact_sheet([before, after])).decode()
        create_image_artifact(
            image_url=f"data:image/png;base64,{sheet}",
            key=f"{name.lower()}-pictures",
            description="Erased concepts: before above, after below, same prompts and seeds.",
        )


def contact_sheet(rows: Sequence[Sequence[bytes]]) -> bytes:
    """Returns one PNG with the pictures of each row side by side, rows below each other."""
    pictures = [[Image.open(io.BytesIO(data)) for data in row] for row in rows]
    width, height = pictures[0][0].size
    sheet = Image.new("RGB", (width * max(len(row) for row in pictures), height * len(pictures)), "white")
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * width, y * height))
    packed = io.BytesIO()
    sheet.save(packed, format="PNG")
    return packed.getvalue()
