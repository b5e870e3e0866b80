"""The training run: steps, validation, checkpoints. `run` is what `skipvsr train` calls."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.device import resolve_dtype
from model.errors import ModelError
from model.estimator import Estimator
from model.network import BasicVSR
from model.training import checkpoint
from model.training.config import ConfigError, Stage, TrainConfig
from model.training.data import Sampler, to_model
from model.training.gated import GatedClip, GatedObjective, gated_network
from model.training.objective import Objective
from model.training.plot import plot
from model.training.validate import bicubic, validate
from model.weights import fingerprint, load_file, name_of, save_network

Say = Callable[[str], None]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine from `lr` to `final_lr`; `step` counts from 0, flow steps left out."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Trainer:
    """A run's moving parts; `state` and `restore` carry them over a kill."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        network = _initial(config)
        self.origin = _origin(config) if config.gates else ""
        """Fingerprint of the weights that gates are for, and whose network is the dense twin."""
        # channels_last is what makes bf16 convolutions fast on CPUs
        network = network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        bf16 = resolve_dtype(config.precision, device) == torch.bfloat16  # in float16 gradients would need scaling
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        """In which the network computes; the parameters that move are float32."""
        self.network: BasicVSR | Estimator = network
        """What is trained: a network, or one with its gates."""
        self.objective: nn.Module = Objective(network, bf16, config.loss)
        if config.gates:
            gated = gated_network(network, config.gates, self.origin)
            gated.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            self.objective = GatedObjective(gated, network, config.gates, bf16)
            self.network, network = gated, self.objective.clip.network
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.start = copy.deepcopy(self.ema) if config.gates and config.gates.keep else None
        if dist.is_initialized():
            self.objective = DistributedDataParallel(self.objective, find_unused_parameters=config.flow_steps > 0)
        flow = [p for p in network.spynet.parameters() if p.requires_grad]
        known = {id(p) for p in flow}
        rest = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": rest, "scale": 1.0}, {"params": flow, "scale": config.flow_lr_scale}]
        self.optimizer = torch.optim.Adam(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)
        self.step = 0
        """Steps done, those of the flow alone included."""
        self.sums = torch.zeros(3, dtype=torch.float64)
        """Loss, photometric term and steps since the last row of the log."""
        self.best = -math.inf
        self.seconds = 0.0

    def _check_finite(self, value: Tensor) -> None:
        if not math.isfinite(value.item()):
            raise ConfigError(
                f"the run has diverged: the loss or its gradient is no number at step {self.step + 1}; lower lr, and "
                "begin another run"
            )

    def train_step(self, lr_frames: Tensor, hr_frames: Tensor) -> None:
        """One step on a batch of uint8 frames (`Sampler.batch`)."""
        flow_only = self.step < self.config.flow_steps
        rate = self.config.lr if flow_only else learning_rate(self.step - self.config.flow_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        lr, hr = to_model(lr_frames, self.device), to_model(hr_frames, self.device)
        loss, flow_loss = self.objective(lr, hr, flow_only)
        self.optimizer.zero_grad(set_to_none=True)
        whole = flow_loss if flow_only else loss + self.config.photometric * flow_loss
        if self.device.type == "cpu":  # there `backward` dies in `grid_sample` where a flow is no number
            self._check_finite(whole)
        whole.backward()
        self._check_finite(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_grad))
        self.optimizer.step()
        self.step += 1
        self.sums += torch.tensor([loss.item(), flow_loss.item(), 1.0], dtype=torch.float64)
        # the average starts short, so that the first weights leave it soon
        done = self.step - self.config.flow_steps
        decay = min(self.config.ema, (1 + done) / (10 + done)) if done > 0 else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)

    def row(self) -> dict[str, float]:
        """The log's row of this step: means since the last one."""
        loss, flow_loss, _ = (self.sums / self.sums[2]).tolist()
        self.sums.zero_()
        rate = self.optimizer.param_groups[0]["lr"]
        return {"step": self.step, "loss": loss, "photometric": flow_loss, "lr": rate}

    def state(self) -> dict[str, Any]:
        """All that the run needs to go on."""
        return {
            "config": self.config.model_dump(mode="json"),
            "processes": _processes(),
            "step": self.step,
            "network": self.network.state_dict(),
            "start": self.start.state_dict() if self.start is not None else None,
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "best": self.best,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "origin": self.origin,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ConfigError where it belongs to another network, or to gates for other weights."""
        if state.get("origin", self.origin) != self.origin:
            raise ConfigError(f"{self.config.init} is not the file that the run began with; begin another, with --out")
        try:
            self.network.load_state_dict(state["network"])
            if self.start is not None and (start := state.get("start")):  # `gates.init` may be another file by now
                self.start.load_state_dict(start)
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as e:
            raise ConfigError(f"the run's state is of another network: {str(e).splitlines()[0]}") from e
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.sums = state["sums"]
        torch.set_rng_state(state["rng"])

    def result(self) -> BasicVSR | Estimator:
        """What comes out of the run: the average of its weights, with as much of those before it as is to be kept."""
        network = copy.deepcopy(self.ema)
        if self.start is not None and self.config.gates:
            with torch.no_grad():
                keep = self.config.gates.keep
                torch._foreach_lerp_(list(network.parameters()), list(self.start.parameters()), keep)
        return network

    def averaged(self) -> BasicVSR | GatedClip:
        """The same in the type that the run computes in."""
        network = self.result()
        if isinstance(network, BasicVSR):
            return network.to(self.dtype)
        assert self.config.gates
        return GatedClip(network.ready(self.device, self.dtype), self.config.gates.confidence)


def _initial(config: TrainConfig) -> BasicVSR:
    wanted = config.network.network_config()
    if config.init is None:
        return BasicVSR(wanted)
    try:
        network = load_file(config.init)
    except (ModelError, OSError) as e:
        raise ConfigError(f"init: {e}") from e
    if network.config != wanted:
        raise ConfigError(f"init: {config.init.name} holds {network.config}, the configuration asks for {wanted}")
    return network


def _origin(config: TrainConfig) -> str:
    """Fingerprint of the weights that a run of gates begins with."""
    assert config.init is not None
    return fingerprint(name_of(config.init), config.init)


def run(config: TrainConfig, cache: Path, out: Path, say: Say, stop_at: int | None = None) -> Path:
    """Train, or go on with a run that was stopped; returns the path of the final (averaged) weights.

    `cache` is a folder that `prepare` packed. `out` gets `state.pt`, `log.jsonl`, `plot.png`, `best.safetensors`
    (highest validation PSNR; not of gates) and `last.safetensors`. `say` gets the progress, a line at a time. `stop_at`
    ends the run early at that step, with a checkpoint. Raises ConfigError, also where `out` holds a run with another
    configuration, one with more or fewer steps included (`checkpoint.belongs` says what may differ).
    """
    with _workers(config) as (rank, device):
        out.mkdir(parents=True, exist_ok=True)
        if config.threads:
            torch.set_num_threads(config.threads)
        state = checkpoint.load(out / "state.pt")
        if state is not None:
            checkpoint.belongs(state, config, _processes(), out)
        trainer = Trainer(config, device)
        if state is not None:
            trainer.restore(state)
        if rank == 0:
            _Scribe(trainer, cache, out, say).follow(Sampler(cache, config, rank), stop_at, resumed=state is not None)
        else:
            for lr, hr in _batches(trainer, Sampler(cache, config, rank), stop_at):
                trainer.train_step(lr, hr)
    return out / "last.safetensors"


def _batches(trainer: Trainer, sampler: Sampler, stop_at: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    config = trainer.config
    end = config.flow_steps + config.steps
    return sampler.batches(trainer.step, min(end, stop_at or end), lambda step: stage_at(config, step))


def stage_at(config: TrainConfig, step: int) -> Stage:
    """The stage of a step that counts the flow's own steps too: those run as the first stage does."""
    return config.stage(max(0, step - config.flow_steps))


class _Scribe:
    """What rank 0 does beside training: log, progress, validation, checkpoints."""

    def __init__(self, trainer: Trainer, cache: Path, out: Path, say: Say) -> None:
        self.trainer, self.cache, self.out, self.say = trainer, cache, out, say
        self.config = trainer.config
        self.total = self.config.flow_steps + self.config.steps
        self.log = checkpoint.Log(out / "log.jsonl", trainer.step)
        self.last_val: dict[str, float] = {}

    def follow(self, sampler: Sampler, stop_at: int | None, resumed: bool) -> None:
        trainer, config = self.trainer, self.config
        if resumed:
            self.say(f"goes on at step {trainer.step} of {self.total}")
        else:
            self.say(f"bicubic: {_text(bicubic(self.cache, self.config.clean)) or 'no validation clips'}")
        started, seconds, first = time.monotonic(), trainer.seconds, trainer.step
        for lr, hr in _batches(trainer, sampler, stop_at):
            trainer.train_step(lr, hr)
            trainer.seconds = seconds + time.monotonic() - started
            if trainer.step % config.log_every == 0 or self._validates() or trainer.step == self.total:
                self._report((time.monotonic() - started) / (trainer.step - first))
            if trainer.step % config.checkpoint_every == 0 and trainer.step < self.total:
                checkpoint.save(self.out / "state.pt", trainer.state())
        checkpoint.save(self.out / "state.pt", trainer.state())
        if trainer.step == self.total:
            self._export("last")
            plot(self.log.rows, self.out / "plot.png")

    def _validates(self) -> bool:
        step = self.trainer.step
        return step > self.config.flow_steps and (step % self.config.val_every == 0 or step == self.total)

    def _report(self, per_step: float) -> None:
        trainer, config = self.trainer, self.config
        row = trainer.row()
        if self._validates():
            self.last_val = validate(trainer.averaged(), self.cache, trainer.device, config.clean)
            row |= self.last_val
            self._choose()
        row["seconds"] = round(trainer.seconds, 1)
        self.log.add(row)
        left = per_step * (self.total - trainer.step)
        self.say(
            f"step {trainer.step}/{self.total}  loss {row['loss']:.5f}  flow {row['photometric']:.5f}  "
            f"lr {row['lr']:.2e}  {per_step:.3f} s/step  ETA {_clock(left)}  {_text(self.last_val)}".rstrip()
        )

    def _choose(self) -> None:
        """Keep the weights that do best on what this run trains for."""
        if not self.last_val:
            return
        if self.config.gates:  # what skips least would win
            plot(self.log.rows, self.out / "plot.png")
            return
        counted = {f"psnr_{self.config.clean}"} if self.config.clean_share == 1 else set(self.last_val)
        score = sum(self.last_val[name] for name in counted) / len(counted)
        plot(self.log.rows, self.out / "plot.png")
        if score > self.trainer.best:
            self.trainer.best = score
            self._export("best")

    def _export(self, name: str) -> None:
        notes = {"step": str(self.trainer.step)}
        path = self.out / f"{name}.safetensors"
        checkpoint.replace(path, lambda part: self._save(part, notes))

    def _save(self, path: Path, notes: dict[str, str]) -> None:
        trained = self.trainer.result()
        if isinstance(trained, BasicVSR):
            save_network(trained, path, notes)
        else:
            trained.save(path, self.trainer.origin, notes)


def _text(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}{' dB' * name.startswith('psnr')}" for name, value in scores.items())


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _processes() -> int:
    """How many processes train together, as torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def _workers(config: TrainConfig) -> Iterator[tuple[int, torch.device]]:
    """This process's rank and device; joins the group that torchrun describes, if it started us."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda is asked for, and this machine has none")
    device = torch.device("cpu")
    if config.device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"device: process {local} finds {torch.cuda.device_count()} GPUs, and needs one of its own"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)  # what NCCL and new tensors go by; else all processes meet on the first GPU
    if _processes() == 1:
        yield 0, device
        return
    dist.init_process_group("nccl" if config.device == "cuda" else "gloo")
    try:
        yield dist.get_rank(), device
    finally:
        dist.destroy_process_group()
