"""The training run: steps, validation, checkpoints. `run` is what `skipvsr train` calls."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.device import resolve_device, resolve_dtype
from model.errors import ConfigError, DeviceError, ModelError
from model.gates.estimator import Estimator
from model.network.basicvsr import BasicVSR
from model.training import checkpoint
from model.training.adapt_gates import GatedClip, GatedObjective, gated_network
from model.training.data import Sampler, to_model
from model.training.objective import Objective
from model.training.plot import plot
from model.training.recipe import Recipe
from model.training.validate import bicubic, validate
from model.zoo.models import name_of
from model.zoo.weights_file import fingerprint, load_file, save_network

if TYPE_CHECKING:
    from model.training.config import Stage, TrainConfig

Say = Callable[[str], None]


def learning_rate(step: int, config: Recipe) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine from `lr` to `final_lr`.

    `step` counts from 0, without the flow steps.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Trainer:
    """The changing parts of a run; `state` and `restore` save and load them."""

    def __init__(self, config: Recipe, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        network = _initial(config)
        self.origin = _origin(config) if config.gates else ""
        """Fingerprint of the dense twin, the network that the gates were fitted to; empty without gates."""
        # channels last make bfloat16 convolutions fast on CPUs
        network = network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        bf16 = resolve_dtype(config.precision, device) == torch.bfloat16  # float16 would need scaled gradients
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        """Number format of the network's computations; trained parameters are float32."""
        self.network: BasicVSR | Estimator = network
        """What is trained: a network, or one with its gates."""
        self.objective: nn.Module = Objective(network, bf16, config.loss)
        if config.gates:
            gated = gated_network(network, config.gates, self.origin)
            gated.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            self.objective = GatedObjective(gated, network, config.gates, bf16)
            self.network, network = gated, self.objective.clip.network
        if config.flow_lr_scale == 0:
            network.spynet.requires_grad_(False)
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
        """Number of steps done, including the flow steps."""
        self.sums = torch.zeros(3, dtype=torch.float64)
        """Sums of loss and photometric term, and number of steps, since the last row of the log."""
        self.best = -math.inf
        self.seconds = 0.0

    def _check_finite(self, value: Tensor) -> None:
        if not math.isfinite(value.item()):
            raise ConfigError(
                f"the run has diverged: loss or gradient is not finite at step {self.step + 1}; lower lr and start "
                "a new run"
            )

    def train_step(self, lr_frames: Tensor, hr_frames: Tensor) -> None:
        """Run one step on a batch of uint8 frames (`Sampler.batch`). Raises ConfigError if the run diverges."""
        flow_only = self.step < self.config.flow_steps
        rate = self.config.lr if flow_only else learning_rate(self.step - self.config.flow_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if not flow_only and self.step < self.config.flow_steps + self.config.flow_frozen:
            self.optimizer.param_groups[1]["lr"] = 0.0
        lr, hr = to_model(lr_frames, self.device), to_model(hr_frames, self.device)
        loss, flow_loss = self.objective(lr, hr, flow_only)
        self.optimizer.zero_grad(set_to_none=True)
        whole = flow_loss if flow_only else loss + self.config.photometric * flow_loss
        if self.device.type == "cpu":  # on CPUs, `backward` crashes in `grid_sample` if the flow is not finite
            self._check_finite(whole)
        whole.backward()
        self._check_finite(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_grad))
        self.optimizer.step()
        self.step += 1
        self.sums += torch.tensor([loss.item(), flow_loss.item(), 1.0], dtype=torch.float64)
        # a short average at first: the initial weights fade quickly
        done = self.step - self.config.flow_steps
        decay = min(self.config.ema, (1 + done) / (10 + done)) if done > 0 else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)

    def row(self) -> dict[str, float]:
        """Return the row of the log for this step: means since the last row."""
        loss, flow_loss, _ = (self.sums / self.sums[2]).tolist()
        self.sums.zero_()
        rate = self.optimizer.param_groups[0]["lr"]
        return {"step": self.step, "loss": loss, "photometric": flow_loss, "lr": rate}

    def state(self) -> dict[str, Any]:
        """Return everything that changes during a run."""
        return {
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
        """Resume from `state`. Raises ConfigError if the state belongs to another network or dense twin."""
        if state.get("origin", self.origin) != self.origin:
            raise ConfigError(
                f"{self.config.init} is not the file that the run started with; start a new run with another --out"
            )
        try:
            self.network.load_state_dict(state["network"])
            if self.start is not None and (start := state.get("start")):  # the file `gates.init` may have changed
                self.start.load_state_dict(start)
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as e:
            raise ConfigError(f"the state of the run belongs to another network: {str(e).splitlines()[0]}") from e
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.sums = state["sums"]
        torch.set_rng_state(state["rng"])

    def result(self) -> BasicVSR | Estimator:
        """Return the result of the run: its averaged weights, blended with the initial weights by `gates.keep`."""
        network = copy.deepcopy(self.ema)
        if self.start is not None and self.config.gates:
            with torch.no_grad():
                keep = self.config.gates.keep
                torch._foreach_lerp_(list(network.parameters()), list(self.start.parameters()), keep)
        return network

    def averaged(self) -> BasicVSR | GatedClip:
        """Return the result in the number format of the run."""
        network = self.result()
        if isinstance(network, BasicVSR):
            return network.to(self.dtype)
        assert self.config.gates
        return GatedClip(network.ready(self.device, self.dtype), self.config.gates.error_budget)


def _initial(config: Recipe) -> BasicVSR:
    wanted = config.network_config
    if config.init is None:
        return BasicVSR(wanted)
    try:
        network = load_file(config.init)
    except (ModelError, OSError) as e:
        raise ConfigError(f"init: {e}") from e
    if network.config != wanted:
        raise ConfigError(f"init: {config.init.name} holds {network.config}, the configuration asks for {wanted}")
    return network


def _origin(config: Recipe) -> str:
    """Return the fingerprint of the initial weights of a run with gates."""
    assert config.init is not None
    return fingerprint(name_of(config.init), config.init)


def run(config: TrainConfig, cache: Path, out: Path, say: Say, stop_at: int | None = None) -> Path:
    """Train, or resume a stopped run; return the path of the final (averaged) weights.

    `cache` is a folder packed by `prepare`. The run writes `state.pt`, `log.jsonl`, `plot.png`, `best.safetensors`
    (highest validation PSNR; not for gates) and `last.safetensors` to `out`. `say` receives the progress, one line at a
    time. `stop_at` ends the run early at that step, with a checkpoint. Raises ConfigError, also if `out` holds a run
    with another configuration (`checkpoint.check_same_run` lists the allowed differences).
    """
    with _workers(config) as (rank, device):
        out.mkdir(parents=True, exist_ok=True)
        if config.threads:
            torch.set_num_threads(config.threads)
        state = checkpoint.load(out / "state.pt")
        if state is not None:
            checkpoint.check_same_run(state, config, _processes(), out)
        trainer = Trainer(config, device)
        if state is not None:
            trainer.restore(state)
        if rank == 0:
            recorder = _Recorder(trainer, config, cache, out, say)
            recorder.follow(Sampler(cache, config, rank), stop_at, resumed=state is not None)
        else:
            for lr, hr in _batches(trainer.step, config, Sampler(cache, config, rank), stop_at):
                trainer.train_step(lr, hr)
    return out / "last.safetensors"


def _batches(step: int, config: TrainConfig, sampler: Sampler, stop_at: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    end = config.flow_steps + config.steps
    return sampler.batches(step, min(end, stop_at or end), lambda step: stage_at(config, step))


def stage_at(config: TrainConfig, step: int) -> Stage:
    """Return the stage of a step; `step` includes the flow steps, which use the first stage."""
    return config.stage(max(0, step - config.flow_steps))


class _Recorder:
    """The extra work of rank 0: log, progress, validation, checkpoints."""

    def __init__(self, trainer: Trainer, config: TrainConfig, cache: Path, out: Path, say: Say) -> None:
        self.trainer, self.config, self.cache, self.out, self.say = trainer, config, cache, out, say
        self.total = self.config.flow_steps + self.config.steps
        self.log = checkpoint.Log(out / "log.jsonl", trainer.step)
        self.last_val: dict[str, float] = {}

    def follow(self, sampler: Sampler, stop_at: int | None, resumed: bool) -> None:
        trainer, config = self.trainer, self.config
        if resumed:
            self.say(f"resuming at step {trainer.step} of {self.total}")
        else:
            self.say(f"bicubic: {_text(bicubic(self.cache, self.config.clean)) or 'no validation clips'}")
        started, seconds, first = time.monotonic(), trainer.seconds, trainer.step
        for lr, hr in _batches(trainer.step, config, sampler, stop_at):
            trainer.train_step(lr, hr)
            trainer.seconds = seconds + time.monotonic() - started
            if trainer.step % config.log_every == 0 or self._validates() or trainer.step == self.total:
                self._report((time.monotonic() - started) / (trainer.step - first))
            if trainer.step % config.checkpoint_every == 0 and trainer.step < self.total:
                self._save_state()
        self._save_state()
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
        """Keep the weights with the best validation PSNR on the kinds of clips that this run trains on."""
        if not self.last_val:
            return
        if self.config.gates:  # the weights that skip least would win
            plot(self.log.rows, self.out / "plot.png")
            return
        counted = {f"psnr_{self.config.clean}"} if self.config.clean_share == 1 else set(self.last_val)
        score = sum(self.last_val[name] for name in counted) / len(counted)
        plot(self.log.rows, self.out / "plot.png")
        if score > self.trainer.best:
            self.trainer.best = score
            self._export("best")

    def _save_state(self) -> None:
        how = {"config": self.config.model_dump(mode="json"), "processes": _processes()}
        checkpoint.save(self.out / "state.pt", {**how, **self.trainer.state()})

    def _export(self, name: str) -> None:
        notes = {"step": str(self.trainer.step)}
        path = self.out / f"{name}.safetensors"
        checkpoint.replace(path, lambda part: self._save(part, notes))

    def _save(self, path: Path, notes: dict[str, str]) -> None:
        trained = self.trainer.result()
        if isinstance(trained, BasicVSR):
            save_network(trained, path, notes, torch.bfloat16 if self.config.store == "bf16" else torch.float32)
        else:
            trained.save(path, self.trainer.origin, notes)


def _text(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}{' dB' * name.startswith('psnr')}" for name, value in scores.items())


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _processes() -> int:
    """Return the number of training processes, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def _workers(config: TrainConfig) -> Iterator[tuple[int, torch.device]]:
    """Yield rank and device of this process, inside the process group if torchrun started several processes."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    try:
        device = resolve_device(f"cuda:{local}" if config.device == "cuda" else "cpu")
    except DeviceError as error:
        raise ConfigError(f"device: process {local} needs its own GPU: {error}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL and new tensors use this device; else all processes share the first GPU
    if _processes() == 1:
        yield 0, device
        return
    dist.init_process_group("nccl" if config.device == "cuda" else "gloo")
    try:
        yield dist.get_rank(), device
    finally:
        dist.destroy_process_group()
