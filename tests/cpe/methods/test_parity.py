"""Parity with the released implementation, on its own gate files and training trajectory.

The data is not part of the project: point CPE_PARITY at the folder, or keep it at ../shared/parity.
"""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cpe.methods.pinpoint.batch import Batch, Draws
from cpe.methods.pinpoint.config import PRESETS, GateConfig, TrainingConfig
from cpe.methods.pinpoint.eraser import Eraser
from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.phases.erase import ErasePhase
from cpe.methods.pinpoint.phases.search import AttackPhase
from cpe.methods.pinpoint.storage.checks import module_path
from cpe.methods.pinpoint.storage.files import metadata_of, read_gates, to_tensors
from cpe.models.projections import BaseProjections
from helpers.parity import FOLDER

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason=f"no parity data at {FOLDER.name}")


@pytest.mark.parametrize("case", ["celebrity_1", "celebrity_5", "artist_1", "explicit_1"])
def test_residuals_equal_the_released_ones(case):
    path = FOLDER / f"{case}.safetensors"
    with safe_open(str(path), "pt") as opened:
        names = json.loads(opened.metadata()["gates"])
    expected = load_file(path)
    text = expected.pop("text")
    residuals = Eraser.load([FOLDER / "gates" / name for name in names]).residuals(text)
    for key, value in expected.items():
        error = (residuals[module_path(key)] - value).norm() / value.norm()
        assert error < 1e-5, f"{key}: relative error {error}"


@pytest.mark.parametrize("name", ["adam_driver", "nudity"])
def test_released_file_survives_import_and_export(name, tmp_path):
    source = FOLDER / "gates" / f"{name}.safetensors"
    loaded = read_gates(source)
    save_file(to_tensors(loaded.gates, loaded.sites), tmp_path / "again", metadata_of(loaded.gates, loaded.concepts))
    before, after = load_file(source), load_file(tmp_path / "again")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]), key


class Trajectory:
    """The released training code's own run on a small U-Net."""

    def __init__(self) -> None:
        path = FOLDER / "training_small.safetensors"
        with safe_open(str(path), "pt") as opened:
            self.constants = {k: float(v) for k, v in opened.metadata().items() if v[0].isdigit()}
        self.tensors = load_file(path)
        self.unet = nn.Module()
        for name, value in self.tensors.items():
            if name.startswith("unet."):
                self._place(name.removeprefix("unet.").removesuffix(".weight"), value)
        self.base = BaseProjections.of(self.unet, tokens=self.tensors["target"].shape[1])
        text, gates = self.tensors, self.gates("start.")
        flat = gates.flat()
        self.batch = Batch(
            gates=gates.viewing(flat),
            flat=flat,
            target=text["target"][None],
            surrogate=text["surrogate"][None],
            empty=text["empty"][0],
            table=text["anchors"][0],
            anchors=(torch.zeros(1).long(),),
            draws=(Draws(torch.Generator(), torch.Generator()),),
        )
        self.config = TrainingConfig(
            gate=GateConfig(gate_rank=int(self.constants["gate_rank"])),
            strength=self.constants["eta"],
            anchor_weight=self.constants["lambda"],
            anchors_per_step=len(self.tensors["anchors"][0]),
            anchor_noise=0,
        )

    def _place(self, path, value):
        *parents, last = path.split(".")
        module = self.unet
        for name in parents:
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module.get_submodule(name)
        linear = nn.Linear(value.shape[1], value.shape[0], bias=False)
        linear.weight.data = value
        module.add_module(last, linear)

    def gates(self, prefix: str) -> Gates:
        part = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        attention = "attention_gate.encoder_layer.slf_attn."
        keys = ["lora_unet_" + name.replace(".", "_") for name in self.base.names]
        config = GateConfig(gate_rank=int(self.constants["gate_rank"]))
        return Gates(
            config,
            self.base.widths,
            part[f"{attention}attention_module1.w_qs.weight"],
            part[f"{attention}attention_module1.w_ks.weight"],
            part[f"{attention}gate.scaler.weight"],
            torch.cat([part[f"{key}.lora_down.weight"] for key in keys], dim=2),
            torch.cat([part[f"{key}.lora_up.weight"] for key in keys], dim=2),
        ).map(torch.clone)


@pytest.mark.parametrize("case", ["erase_plain", "erase_adversarial"])
def test_erasing_stage_follows_the_released_trajectory(case):
    run = Trajectory()
    assert run.constants["adversarial_weight"] == 1
    copies = run.tensors["adversarial"][None] if case == "erase_adversarial" else run.batch.target[:, :0]
    phase = ErasePhase(run.batch, copies, copies[:, :0], run.base, run.config)
    optimizer = torch.optim.Adam([phase.moving], lr=run.constants["erase_rate"], fused=True)
    losses = []
    for anchors in run.tensors["anchors"]:
        phase.batch = dataclasses.replace(run.batch, table=anchors)
        phase.rows[:], phase.share[:] = torch.arange(len(anchors)), 1  # each anchor as it was drawn there
        phase.fill()
        found = phase.compute()
        optimizer.step()
        losses.append((found[0] + found[1] + run.config.anchor_weight * found[2]).item())
    torch.testing.assert_close(torch.tensor(losses), run.tensors[f"{case}.losses"].float(), rtol=1e-6, atol=1e-6)
    end = run.gates(f"{case}.end.")
    for name, tensor in run.batch.gates.trained().items():
        torch.testing.assert_close(tensor, getattr(end, name), rtol=1e-4, atol=1e-4)


def test_adversary_stage_follows_the_released_trajectory():
    run = Trajectory()
    copies = run.tensors["adversarial"][None].clone()
    phase = AttackPhase(run.batch, copies, run.base, run.config)
    optimizer = torch.optim.Adam([copies], lr=run.constants["adversary_rate"], fused=True)
    losses = []
    for _ in range(int(run.constants["steps"])):
        losses.append(phase.compute()[0].item())
        optimizer.step()
    torch.testing.assert_close(torch.tensor(losses), run.tensors["adversary.losses"].float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(copies[0], run.tensors["adversary.end"], rtol=1e-4, atol=1e-4)


def released_noise(embs, scale):
    """The released sampler's noise, as its formula has it: every element by the norm of the whole prompt."""
    return scale * embs.flatten(1).norm(2, dim=1)[:, None, None] * torch.randn_like(embs)


@pytest.mark.parametrize("spanned", [True, False])
def test_noise_on_anchors_is_as_strong_as_released(spanned):
    run, scale, repeats = Trajectory(), 0.001, 400
    table = torch.cat([anchors.flatten(0, -3) for anchors in run.tensors["anchors"]])
    run.batch = dataclasses.replace(run.batch, table=table)
    update = {"anchor_noise": scale, "anchor_noise_over": PRESETS["celebrity"].anchor_noise_over}
    run.config = run.config.model_copy(update={**update, "anchors_per_step": len(table) // 2})
    phase = ErasePhase(run.batch, run.batch.target[:, :0], run.batch.target[:, :0], run.base, run.config)
    phase.spanned = phase.spanned and spanned
    assert phase.spanned == spanned
    if not spanned:
        phase.noise = torch.empty_like(phase.anchors)
    pairs = torch.arange(len(table) // 2 * 2).view(-1, 2)
    phase.rows[:], phase.share[:] = pairs.T, torch.linspace(0, 1, len(pairs))[:, None, None]
    ours, theirs = [], []
    mixed = lambda texts: phase.share[0] * texts[pairs[:, 0]] + (1 - phase.share[0]) * texts[pairs[:, 1]]  # noqa: E731
    torch.manual_seed(0)
    for _ in range(repeats):
        phase.fill()
        ours.append(phase.noise[0].clone() if spanned else (phase.anchors[0] - mixed(table)))
        theirs.append(mixed(released_noise(table, scale)))
    found, expected = (torch.stack(drawn).double().square().mean((0, 2, 3)).sqrt() for drawn in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
    tokens = run.tensors["target"].shape[1]
    assert (found / scale > 0.5 * tokens**0.5 * table.norm(dim=-1).min()).all(), "not the norm of single tokens"
