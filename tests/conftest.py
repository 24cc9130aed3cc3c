"""A small workspace with pictures, features and questions, and the tiny model, for all rooms."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from eegtool.core.console import console
from eegtool.core.records import (
    Epoch,
    read_epochs,
    write_conversations,
    write_epochs,
    write_questions,
)
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, write_json
from eegtool.extract.features import Sidecar, write_features
from eegtool.prepare.questions import (
    QUESTION_TEMPLATES,
    RATIONALES,
    conversation,
    question,
)

if TYPE_CHECKING:  # torch takes seconds to import, and most rooms do without
    from eegtool.model.adapters import Contract

SUBJECTS = {"S01": "ft", "S02": "ft", "S03": "eval"}
EPOCHS_PER_SUBJECT = 10
PICTURE_SIZE = 64
LONGEST = {"e2e", "finetune", "test_gpu_bench.py"}
NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0")
VISION_MODULE = "ab" * 32  # SHA-256 of the weights that are said to have made the features


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run what shares costly fixtures: a file, or all that continues from the same walk."""
    for item in items:
        walks = "walk" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("walk" if walks else str(item.path)))
    # The longest first, so that no process has to wait for another in the end.
    items.sort(key=lambda item: LONGEST.isdisjoint(item.path.parts))


def form_for(template: str) -> dict[str, Any]:
    """Return the form of the answers that a question template of prepare teaches."""
    from eegtool.model.answer_form import form_of

    chosen = QUESTION_TEMPLATES[template]
    shared = ("simulated", "S01E0", "S01", 1, 0, 0.0)
    epochs = [Epoch(stage, *shared, stage, "ft", "a.png") for stage in STAGES]
    reasons = RATIONALES["template"] if chosen.reasons else RATIONALES["none"]
    rows = [conversation(e, chosen, reasons(e.stage, None)) for e in epochs]
    return asdict(form_of(rows, lambda answer: len(answer) // 2))


@pytest.fixture(scope="session")
def workspace_model(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Made once; tests get copies of it.

    The brightness of a picture tells its stage, so that stages can be learnt; the rest is noise.
    """
    workspace = Workspace(tmp_path_factory.mktemp("workspace") / "small")
    rng = np.random.default_rng(5)
    epochs = []
    for subject, split in SUBJECTS.items():
        for i in range(EPOCHS_PER_SUBJECT):
            stage = int(rng.integers(len(STAGES))) if i >= len(STAGES) else i
            name = f"{subject}E0-{i:04d}"
            epoch = Epoch(
                sample_id=name,
                cohort="simulated",
                recording=f"{subject}E0",
                subject=subject,
                night=1,
                epoch_index=i,
                onset_s=30.0 * i,
                stage=STAGES[stage],
                split=split,
                image=f"{name}.png",
            )
            noise = rng.integers(0, 60, (PICTURE_SIZE, PICTURE_SIZE, 3))
            path = workspace.images(split) / epoch.image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((noise + 45 * stage).astype(np.uint8)).save(path)
            epochs.append(epoch)
    template = QUESTION_TEMPLATES["stage"]
    sides = {split: [e for e in epochs if e.split == split] for split in ("ft", "eval")}
    write_epochs(workspace.epochs, epochs)
    write_conversations(workspace.conversations, [conversation(e, template) for e in sides["ft"]])
    write_questions(workspace.questions, [question(e, template) for e in sides["eval"]])
    write_json(
        workspace.prepare_stamp, {"protocol": {"style": "spectrogram", "size": PICTURE_SIZE}}
    )
    for split, side in sides.items():
        rows = rng.standard_normal((len(side), 1, 1024)).astype(np.float32)
        ids = tuple(epoch.sample_id for epoch in side)
        write_features(workspace.features(split), rows, Sidecar(ids, "resnet18", VISION_MODULE, ""))
    return workspace


@pytest.fixture
def workspace(workspace_model: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy that a test may spoil."""
    root = tmp_path / "workspace"
    shutil.copytree(workspace_model.root, root)
    return Workspace(root)


@pytest.fixture
def epochs(workspace: Workspace) -> list[Epoch]:
    """Return the epochs of the workspace, in the order of the table."""
    return read_epochs(workspace.epochs)


@pytest.fixture(autouse=True)
def _console() -> Iterator[None]:
    """Let the console write to standard output again after a command with ``--json``."""
    yield
    console.stderr = False


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tiny model out of the home folder, here and in programs that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EEGVLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a Python in which PyTorch is imported already (see `tests.warm`)."""
    import torch

    from tests.warm import stand_in

    if torch.cuda.is_available():  # which a forked process may not use
        yield Path(sys.executable)
        return
    with stand_in(tmp_path_factory.mktemp("warm")) as python:
        yield python


@pytest.fixture
def warm(warm_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that the test starts begin with PyTorch imported."""
    monkeypatch.setattr(sys, "executable", str(warm_python))


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Return the folder of the tiny base model."""
    import torch

    from eegtool.model.checkpoints import find_base

    # Tensors this small gain nothing from a second thread, and on busy cores wait for it.
    torch.set_num_threads(1)
    return find_base("tiny").folder


@pytest.fixture(scope="session")
def contract(tiny: Path) -> Contract:
    """Return what an adapter of the tiny model says about itself."""
    from eegtool.model.adapters import Contract
    from eegtool.model.checkpoints import base_sha256, load_processor

    return Contract(
        base="tiny",
        base_sha256=base_sha256(tiny),
        fusion="add",
        version="v1",
        pixel_spec=load_processor(tiny, fusion="add", version="v1").pixel_spec,
        features_weights_sha256=VISION_MODULE,
        features="real",
        protocol={"style": "spectrogram"},
    )


@pytest.fixture(scope="session")
def adapter_model(tiny: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter folder whose weights are drawn, not trained: made once, never to be changed."""
    import torch

    from eegtool.model.adapters import add_lora, write_adapter
    from eegtool.model.checkpoints import load_base

    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            3
        )  # whatever ran before: some draws round a thousand times worse than most
        peft_model = add_lora(model, r=4, alpha=8, dropout=0.1)
    generator = torch.Generator().manual_seed(3)
    state = {
        name: parameter.detach() + 0.3 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in peft_model.named_parameters()
        if parameter.requires_grad
    }
    folder = tmp_path_factory.mktemp("adapter") / "drawn"
    write_adapter(folder, peft_model, state, contract)
    return folder


@pytest.fixture
def adapter(adapter_model: Path, tmp_path: Path) -> Path:
    """Return a copy of the adapter that a test may spoil."""
    return Path(shutil.copytree(adapter_model, tmp_path / "adapter"))


@pytest.fixture(scope="session")
def _simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eegtool.simulate.twins import load_twin, write_night

    folder = tmp_path_factory.mktemp("simulated")
    for name in NIGHTS:
        write_night(load_twin(name).condensed(2), folder, seed=1)
    return folder


@pytest.fixture
def recordings(_simulated: Path, tmp_path: Path) -> Path:
    """Folder of three simulated nights of three subjects, ten epochs each; yours to spoil."""
    return Path(shutil.copytree(_simulated, tmp_path / "recordings"))


@pytest.fixture
def write_edf(tmp_path: Path) -> Callable[..., Path]:
    """Write channels given as (label, µV, sampling rate) to an EDF file of 30-s records."""

    def write(
        channels: Sequence[tuple[str, np.ndarray, float]], unit: str = "uV", name: str = "x.edf"
    ) -> Path:
        import edfio

        per_unit = {"uV": 1.0, "mV": 1e3}[unit]
        signals = [
            edfio.EdfSignal(
                data_uv / per_unit,
                sampling_frequency=sfreq_hz,
                label=label,
                physical_dimension=unit,
                physical_range=(-200 / per_unit, 200 / per_unit),
            )
            for label, data_uv, sfreq_hz in channels
        ]
        edfio.Edf(signals, data_record_duration=30).write(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def write_hypnogram(tmp_path: Path) -> Callable[..., Path]:
    """Write annotations given as (onset in s, duration in s, text)."""

    def write(annotations: Sequence[tuple[float, float | None, str]]) -> Path:
        import edfio

        path = tmp_path / "hypnogram.edf"
        edfio.Edf([], annotations=[edfio.EdfAnnotation(*a) for a in annotations]).write(path)
        return path

    return write
