"""The environment of the ranks: what reaches them, and where they log."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from eegtool.core.console import console
from eegtool.core.workspace import read_json
from eegtool.finetune import launcher
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import PLAN_FILE
from eegtool.finetune.saving import last_whole


def environment_of(
    settings: FinetuneSettings, out: Path, ranks: int, hosts: launcher.Hosts | None
) -> dict[str, str]:
    """Return the variables of the ranks; where logs go, unless the user's own say it."""
    ranks_each = hosts.ranks_each if hosts else ranks
    environment = launcher.rank_environment(ranks_each, elsewhere=hosts is not None)
    logs = str(out.parent / "runs" / out.name)
    if settings.report_to == "tensorboard":
        environment.setdefault("TENSORBOARD_LOGGING_DIR", logs)
    if settings.report_to == "wandb":
        environment.setdefault("WANDB_DIR", logs)
        environment.setdefault("WANDB_PROJECT", "eegvlm")
        environment.setdefault("WANDB_RUN_ID", _wandb_run_id(out, resume=settings.resume))
        environment.setdefault("WANDB_RESUME", "allow")
        if hosts:  # each machine has a run of its own
            environment.setdefault("WANDB_RUN_GROUP", out.name)
        # A key in the environment is not in the plan, which others may read: other machines lack it.
        seen = environment if hosts else os.environ
        if "WANDB_MODE" not in environment and not _has_wandb_key(seen):
            environment["WANDB_MODE"] = "offline"
            console.print(
                "  No key of Weights & Biases here: logged offline, for `wandb sync` "
                "(`wandb login`, or WANDB_MODE=online, changes that).",
            )
    return environment


def _wandb_run_id(out: Path, *, resume: bool) -> str:
    """Return the id of the run in Weights & Biases; a training that is resumed has it in its first plan."""
    known = None
    if resume and last_whole(out) and (out / PLAN_FILE).exists():
        known = read_json(out / PLAN_FILE)["environment"].get("WANDB_RUN_ID")
    return known or secrets.token_hex(4)


def _has_wandb_key(environment: Mapping[str, str]) -> bool:
    """Look for a key where `wandb login` puts it; without one wandb would end the training."""
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc(environment.get("NETRC")).hosts
    except (OSError, NetrcParseError):
        known = {}
    return bool(environment.get("WANDB_API_KEY")) or host in known
