"""The epoch in its night: a sequence model over the representations of a recording's epochs, in true time.

The backbone sees each picture once. A small transformer encoder (Vaswani et al. 2017, arXiv 1706.03762) then
looks at the representations of the epochs around each one, and its output is added to the epoch's own. An epoch
that was dropped, was not scored or never recorded is a place with a learnt vector that means *missing*, and a
pause is as long as it was. Attention is local: what is further away than half the reach is not seen by a layer,
so that the whole model sees as far as is asked for, and a recording may be worked on in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eegtool.core.console import progress
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.extract.features import FEATURE_DIM

EPOCH_S: Final = 30.0
_LAYERS: Final = 2
_HEADS: Final = 4
_WIDTH: Final = 128
_PIECE: Final = 512
"""Places of a recording that are worked on at a time, with the reach on either side."""
_UNSCORED: Final = -100
_PASSES: Final = 32
"""On twins of ten nights κ of the validation subject is 0.698 so (400 steps, dropout 0.5, two seeds), 0.684 after 160."""


class ContextEncoder(nn.Module):
    """Representations of a recording's epochs → features that know their neighbours.

    Parameters
    ----------
    reach : int
        Epochs on either side that a feature may depend on, from 1.
    dropout : float
        Of what the encoder reads and computes, while it is trained.
    """

    def __init__(self, reach: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.reach = reach
        layers = min(_LAYERS, reach)
        self.near = reach // layers  # what one layer sees
        self.down = nn.Linear(FEATURE_DIM, _WIDTH)
        self.missing = nn.Parameter(torch.zeros(_WIDTH))
        self.distance = nn.Parameter(torch.zeros(_HEADS, 2 * self.near + 1))
        self.blocks = nn.ModuleList(
            Block(_WIDTH, _HEADS, 2.0, proj_drop=dropout, attn_drop=dropout) for _ in range(layers)
        )
        self.seen = nn.LayerNorm(_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(_WIDTH, FEATURE_DIM)
        self.norm = nn.LayerNorm(FEATURE_DIM)
        self.classifier = nn.Linear(FEATURE_DIM, len(STAGES))

    def forward(self, rows: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[B, T, 1024]`` and stage logits ``[B, T, 5]``.

        Parameters
        ----------
        rows : float [B, T, 1024]
            Representation of the epoch at each place in time; whatever stands where there is none.
        there : bool [B, T]
            Whether there is one.
        """
        length = rows.shape[1]
        read = torch.where(there[..., None], self.down(self.dropout(rows)), self.missing)
        places = torch.arange(length, device=rows.device)
        apart = places - places[:, None]
        near = apart.clamp(-self.near, self.near)
        mask = self.distance[:, near + self.near].masked_fill(near != apart, -torch.inf)
        for block in self.blocks:
            read = block(read, attn_mask=mask)
        seen = self.up(self.seen(read))
        features = self.norm(torch.where(there[..., None], rows, 0.0) + seen)
        return features, self.classifier(features)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """Epochs of one recording in true time; a gap that nobody looks across begins another one.

    Attributes
    ----------
    index : int64 [T]
        Number of the epoch at each place; -1 where there is none.
    """

    index: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """Bool ``[T]``: whether there is an epoch."""
        return self.index >= 0


def tracks(recordings: Sequence[str], onsets_s: Sequence[float], reach: int) -> list[Track]:
    """Put epochs into true time, whatever their order.

    Parameters
    ----------
    recordings : sequence of str
        Whose each epoch is.
    onsets_s : sequence of float
        When it begins; epochs of one recording lie a whole number of epochs apart.
    reach : int
        Of the encoder: a longer gap ends a track, so that memory does not grow with pauses.
    """
    order = np.lexsort((np.asarray(onsets_s), np.asarray(recordings)))
    found: list[Track] = []
    run: list[tuple[int, int]] = []

    def end() -> None:
        if run:
            index = np.full(run[-1][0] - run[0][0] + 1, -1)
            for place, number in run:
                index[place - run[0][0]] = number
            found.append(Track(index))
            run.clear()

    before = None
    for number in order.tolist():
        place = round(onsets_s[number] / EPOCH_S)
        if before is not None and (
            recordings[number] != recordings[before] or place - run[-1][0] > reach
        ):
            end()
        run.append((place, number))
        before = number
    end()
    return found


@torch.inference_mode()
def in_context(
    encoder: ContextEncoder, track: Track, rows: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 ``[N, 1024]`` and logits ``[N, 5]`` of a track's epochs, in the order of its places.

    Parameters
    ----------
    encoder : ContextEncoder
        On `device`, in evaluation mode.
    track : Track
        Of N epochs.
    rows : float32 [N, 1024]
        Their representations, in the same order.
    device : torch.device
        Where it computes, in float32.
    """
    reach = encoder.reach
    there = torch.from_numpy(np.pad(track.there, reach))  # before and behind it, all is missing
    whole = torch.zeros(len(there), FEATURE_DIM)
    whole[there] = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
    features: list[Tensor] = []
    logits: list[Tensor] = []
    for start in range(0, len(there), _PIECE):
        begin, end = max(0, start - reach), start + _PIECE + reach
        piece = (part[begin:end][None].to(device) for part in (whole, there))
        own = slice(start - begin, start - begin + _PIECE)
        for found, parts in zip(encoder(*piece), (features, logits), strict=True):
            parts.append(found[0, own].float().cpu())
    return torch.cat(features)[there].numpy(), torch.cat(logits)[there].numpy()


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """How a context encoder is trained; part of the module's card.

    Attributes
    ----------
    reach : int
        See `ContextEncoder`.
    steps, batch, length : int
        Updates, and sequences of so many epochs in each.
    learning_rate, weight_decay, dropout, smoothing : float
        Peak of a cosine, AdamW's decay, dropout, and label smoothing.
    hidden : float
        Share of the sequences in which a whole stretch is missing: for the edges of nights and short ones.
    seed : int
        Of first weights and draws.
    """

    reach: int
    steps: int = 160
    batch: int = 8
    length: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.5
    smoothing: float = 0.05
    hidden: float = 0.5
    seed: int = 42

    @classmethod
    def of_passes(cls, n_epochs: int, *, reach: int, seed: int) -> ContextPlan:
        """Return a plan whose steps see each of so many epochs `_PASSES` times; short trainings are lengthened."""
        plan = cls(reach, seed=seed)
        steps = math.ceil(_PASSES * n_epochs / (plan.batch * plan.length))
        return replace(plan, steps=max(plan.steps, steps))


class Rows:
    """Representations of a side's epochs, and behind them those of epochs that are neighbours only.

    Parameters
    ----------
    own : float32 [N, 1, 1024]
        Which a feature may take the place of; a memory map will do.
    others : float32 [M, 1, 1024], optional
        Of neighbours.
    """

    def __init__(self, own: np.ndarray, others: np.ndarray | None = None) -> None:
        self.own = own
        self.others = own[:0] if others is None else others

    def read(self, index: np.ndarray) -> np.ndarray:
        """Return rows by their numbers, float32 ``[K, 1024]``."""
        index, n = np.asarray(index), len(self.own)
        found = np.empty((len(index), self.own.shape[-1]), np.float32)
        found[index < n] = self.own[index[index < n], 0]
        found[index >= n] = self.others[index[index >= n] - n, 0]
        return found

    def write(self, index: np.ndarray, features: np.ndarray) -> None:
        """Put features in the place of the side's own rows; those of neighbours go nowhere."""
        staged = index < len(self.own)
        self.own[index[staged], 0] = features[staged]


def train_context(
    plan: ContextPlan,
    epochs: Sequence[Epoch],
    rows: Rows,
    validating: Sequence[str],
    device: torch.device,
) -> tuple[ContextEncoder, dict[str, Any]]:
    """Train a context encoder on representations; of its states the best on subjects that it does not train on is kept.

    Parameters
    ----------
    plan : ContextPlan
        How.
    epochs : sequence of Epoch
        The fine-tune side, and behind it neighbours without a stage.
    rows : Rows
        Their representations.
    validating : sequence of str
        Subjects to validate on; empty: the last state is kept.

    Returns
    -------
    ContextEncoder
        In evaluation mode.
    dict
        For the card: the plan, the step that was kept and its κ on the validation subjects.
    """
    rng = np.random.default_rng(plan.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        encoder = ContextEncoder(plan.reach, plan.dropout).to(device)
        stages = np.array([STAGE_INDEX.get(epoch.stage, _UNSCORED) for epoch in epochs])
        held_out = {*validating}
        nights = tracks([e.recording for e in epochs], [e.onset_s for e in epochs], plan.reach)
        whose = [epochs[int(night.index.max())].subject in held_out for night in nights]
        training = [
            night for night, is_held_out in zip(nights, whose, strict=True) if not is_held_out
        ]
        validation = [
            night for night, is_held_out in zip(nights, whose, strict=True) if is_held_out
        ]
        optimizer = torch.optim.AdamW(
            encoder.parameters(), plan.learning_rate, weight_decay=plan.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, plan.learning_rate, total_steps=plan.steps
        )
        best: tuple[float, int, Mapping[str, Tensor]] = (-1.0, plan.steps, {})
        every = max(1, plan.steps // 8)
        with progress("steps") as bar:
            line = bar.add_task("Learning context", total=plan.steps, note="")
            for step in range(1, plan.steps + 1):
                encoder.train()
                batch = _drawn(plan, training, rows, stages, rng, device)
                _, logits = encoder(*batch[:2])
                loss = cross_entropy(
                    *(logits.flatten(0, 1), batch[2].flatten()),
                    ignore_index=_UNSCORED,
                    label_smoothing=plan.smoothing,
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                if validation and step % every == 0:
                    kappa = _kappa(encoder.eval(), validation, rows, stages, device)
                    if kappa > best[0]:
                        state = {k: v.clone() for k, v in encoder.state_dict().items()}
                        best = (kappa, step, state)
                bar.update(line, advance=1, note=f"loss {loss.item():.2f}")
    if best[2]:
        encoder.load_state_dict(best[2])
    known = {"step": best[1], "kappa": best[0] if validation else None}
    return encoder.eval(), asdict(plan) | known


def _drawn(
    plan: ContextPlan,
    nights: Sequence[Track],
    rows: Rows,
    stages: np.ndarray,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw sequences of epochs, some of which begin before a night or end behind it, or have a stretch hidden."""
    lengths = np.array([len(night.index) for night in nights])
    index = np.full((plan.batch, plan.length), -1)
    for row in index:
        night = nights[rng.choice(len(nights), p=lengths / lengths.sum())].index
        begin = int(rng.integers(-plan.length // 2, max(1, len(night) - plan.length // 2)))
        low, high = max(begin, 0), min(begin + plan.length, len(night))
        row[low - begin : high - begin] = night[low:high]
        if rng.random() < plan.hidden:
            width = int(rng.integers(1, plan.length // 2))
            at = int(rng.integers(0, plan.length - width))
            row[at : at + width] = -1
    there = index >= 0
    drawn = np.zeros((*index.shape, FEATURE_DIM), np.float32)
    drawn[there] = rows.read(index[there])
    targets = np.where(there, stages[index], _UNSCORED)
    found = (torch.from_numpy(part).to(device) for part in (drawn, there, targets))
    return tuple(found)  # type: ignore[return-value]


def _kappa(
    encoder: ContextEncoder,
    nights: Sequence[Track],
    rows: Rows,
    stages: np.ndarray,
    device: torch.device,
) -> float:
    """Return Cohen's κ over the scored epochs of some nights."""
    said, true = [], []
    for night in nights:
        own = night.index[night.there]
        said.append(in_context(encoder, night, rows.read(own), device)[1].argmax(axis=1))
        true.append(stages[own])
    both = np.concatenate(true), np.concatenate(said)
    scored = both[0] != _UNSCORED
    kappa = cohen_kappa_score(both[0][scored], both[1][scored])
    return float(np.nan_to_num(kappa))


def add_context(
    encoder: ContextEncoder, epochs: Sequence[Epoch], rows: Rows, device: torch.device
) -> np.ndarray:
    """Put features in the place of representations, recording by recording.

    Parameters
    ----------
    encoder : ContextEncoder
        Trained.
    epochs : sequence of Epoch
        One for each row, neighbours included.
    rows : Rows
        Representations, of which the side's own are overwritten.

    Returns
    -------
    float32 [N, 5]
        Probabilities of the side's own epochs.
    """
    probabilities = np.empty((len(epochs), len(STAGES)), np.float32)
    encoder.to(device).eval()
    for night in tracks(
        [epoch.recording for epoch in epochs], [epoch.onset_s for epoch in epochs], encoder.reach
    ):
        own = night.index[night.there]
        features, logits = in_context(encoder, night, rows.read(own), device)
        rows.write(own, features)
        probabilities[own] = torch.from_numpy(logits).softmax(1).numpy()
    return probabilities[: len(rows.own)]


def epochs_of(minutes: float) -> int:
    """Return how many epochs on either side so many minutes are."""
    return round(60 * minutes / EPOCH_S)


def pieces(places: Mapping[str, float], reach: int) -> Iterator[tuple[Track, list[str]]]:
    """Yield the tracks of one recording's epochs, by sample id and onset in seconds, and the ids in their order."""
    names = [*places]
    for track in tracks([""] * len(names), [places[name] for name in names], reach):
        yield track, [names[i] for i in track.index[track.there]]
