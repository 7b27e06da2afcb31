"""The one training loop, for every policy: cached features in, checkpoint out."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from s2robot.checkpoint import Checkpoint, save_checkpoint, write_durably
from s2robot.config import PolicyConfig, TrainConfig, TrainingConfig
from s2robot.data import open_dataset
from s2robot.dataset import Demonstrations, WindowDataset, load_demonstrations, split_episodes
from s2robot.encoder import S2Encoder
from s2robot.feature_cache import CachedFeatures, cache_features
from s2robot.interfaces import Batch, PolicySpec, TrainingError, resolve_device
from s2robot.policies import Policy, make_policy

_ACTION_ERROR_WINDOWS = 256  # acting is slow for diffusion; this many held-out windows give a steady estimate


@dataclass(frozen=True)
class TrainingData:
    """Everything the loop reads, and what the checkpoint records about it."""

    demonstrations: Demonstrations
    features: dict[str, CachedFeatures]
    training_episodes: list[int]
    validation_episodes: list[int]
    spec: PolicySpec
    proprioception: list[str]
    environment: dict[str, Any]
    fingerprint: str

    def windows(self, episodes: list[int], policy: PolicyConfig) -> WindowDataset:
        """Windows of `episodes` in the sizes `policy` asks for."""
        return WindowDataset(
            self.demonstrations,
            self.features,
            episodes,
            observation_steps=policy.observation_steps,
            action_steps=policy.action_steps,
        )


def train(config: TrainConfig, encoder: S2Encoder | None = None) -> Path:
    """Demonstrations → features → policy → checkpoint.

    Args:
        config: the run.
        encoder: one made already from `config.encoder`, to share between runs.

    Returns:
        The checkpoint folder, `<output>/checkpoint`.
    """
    device = resolve_device(config.device)
    if encoder is None:
        encoder = S2Encoder(**asdict(config.encoder), device=device)
    tensors_before = encoder.tensors_hash()
    data = prepare(config, encoder)

    torch.manual_seed(config.seed)
    policy = make_policy(config.policy, config.readout, data.spec)
    policy.fit_normalization(
        [data.demonstrations.actions[index] for index in data.training_episodes],
        [data.demonstrations.proprioception[index] for index in data.training_episodes],
    )
    loop = TrainingLoop(policy.to(device), data, config, device)
    loss_curve = loop.run()

    if encoder.tensors_hash() != tensors_before:
        raise TrainingError(f"backbone {encoder.backbone.name!r} changed during training; it must stay frozen")
    checkpoint = Checkpoint(
        config=config,
        spec=data.spec,
        environment=data.environment,
        proprioception=data.proprioception,
        fingerprints={
            "encoder": encoder.fingerprint(),
            "backbone": encoder.backbone.weights_hash(),
            "data": data.fingerprint,
        },
        demonstrations=len(data.demonstrations.actions),
        loss_curve=loss_curve,
        command=" ".join(sys.argv),
    )
    folder = Path(config.output) / "checkpoint"
    save_checkpoint(folder, loop.averaged_state(), checkpoint)
    return folder


def prepare(config: TrainConfig, encoder: S2Encoder) -> TrainingData:
    """Open the dataset, encode what is not cached yet, and divide the episodes."""
    with open_dataset(config.dataset) as dataset:
        cameras = dataset.select_cameras(config.cameras)
        keys = dataset.select_proprioception(config.proprioception)
        demonstrations = load_demonstrations(dataset, keys, config.num_demonstrations)
        count = len(demonstrations.actions)
        features = {
            camera: cache_features(
                dataset,
                encoder,
                camera,
                config.cache_dir,
                num_episodes=count,
                num_shifts=config.training.num_shifts,
                shift_pixels=config.training.shift_pixels,
            )
            for camera in cameras
        }
        training, validation = split_episodes(count, config.training.validation_fraction)
        spec = PolicySpec(
            features={camera: cached.shape for camera, cached in features.items()},
            proprioception_width=demonstrations.proprioception[0].shape[1],
            action_width=dataset.action_width,
        )
        sizes = {camera: dataset.image_size(camera)[0] for camera in cameras}
        environment = {**dataset.env_args.get("s2robot", {}), "cameras": cameras, "image_size": sizes}
        return TrainingData(
            demonstrations, features, training, validation, spec, keys, environment, dataset.fingerprint()
        )


class TrainingLoop:
    """AdamW under warm-up and cosine decay, with an exponential moving average of the weights."""

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig, device: torch.device) -> None:
        self.policy = policy
        self.settings: TrainingConfig = config.training
        self.device = device
        self._training = data.windows(data.training_episodes, config.policy)
        self._validation = data.windows(data.validation_episodes, config.policy) if data.validation_episodes else None
        self._state_file = Path(config.output) / "training_state.pt"
        self._log_file = Path(config.output) / "log.csv"
        self._identity = {**asdict(config), "data": data.fingerprint, "output": "", "resume": True, "device": ""}
        self._resume = config.resume
        self._seed = config.seed
        self._rows: list[dict[str, float]] = []
        self._epoch = 0

        steps = self.settings.epochs * -(-len(self._training) // self.settings.batch_size)
        self.optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=self.settings.learning_rate,
            betas=(self.settings.betas[0], self.settings.betas[1]),
            weight_decay=self.settings.weight_decay,
        )
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, self.settings.warmup_steps, steps)
        self.ema = EMAModel(
            policy.parameters(),
            decay=self.settings.ema_max_decay,
            use_ema_warmup=True,
            power=self.settings.ema_power,
        )

    def run(self) -> list[dict[str, float]]:
        """Train to the last epoch, from the last saved state if there is one; return the log's rows."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._restore()
        with tqdm(total=self.settings.epochs, initial=self._epoch, unit="epoch", desc="training") as bar:
            while self._epoch < self.settings.epochs:
                loss = self._train_epoch()
                self._epoch += 1
                last = self._epoch == self.settings.epochs
                row: dict[str, float] = {
                    "epoch": self._epoch,
                    "learning_rate": float(self.schedule.get_last_lr()[0]),
                    "train_loss": loss,
                }
                if self._validation is not None and (last or self._epoch % self.settings.validate_every == 0):
                    row |= self._validate(self._validation)
                self._rows.append(row)
                if last or self._epoch % self.settings.save_every == 0:
                    self._save()
                bar.set_postfix(loss=f"{loss:.4g}")
                bar.update()
        return self._rows

    def averaged_state(self) -> dict[str, torch.Tensor]:
        """The policy's state with the moving average in place of the raw weights."""
        self.ema.store(self.policy.parameters())
        self.ema.copy_to(self.policy.parameters())
        state = {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}
        self.ema.restore(self.policy.parameters())
        return state

    def _batches(self, windows: WindowDataset, generator: torch.Generator | None) -> DataLoader[Batch]:
        return DataLoader(
            windows,
            batch_size=self.settings.batch_size,
            shuffle=generator is not None,
            generator=generator,
            collate_fn=_identity,  # `__getitems__` has made a batch already
        )

    def _train_epoch(self) -> float:
        """One pass; the order of windows and the noise follow from (seed, epoch) alone, so a resume repeats them."""
        self.policy.train()
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        torch.manual_seed(self._seed * 1_000_003 + self._epoch)
        self._training.draw_copies(generator)
        losses = []
        for index, batch in enumerate(self._batches(self._training, generator)):
            loss = self.policy.loss(batch.to(self.device))
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"loss is {loss.item()} at epoch {self._epoch + 1}, batch {index}; lower training.learning_rate "
                    f"(now {self.settings.learning_rate}) or look at the dataset with `s2robot inspect`"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.gradient_clip)
            self.optimizer.step()
            self.schedule.step()
            self.ema.step(self.policy.parameters())
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    @torch.inference_mode()
    def _validate(self, windows: WindowDataset) -> dict[str, float]:
        """Loss and action error of the averaged weights on held-out episodes."""
        self.policy.eval()
        self.ema.store(self.policy.parameters())
        self.ema.copy_to(self.policy.parameters())
        torch.manual_seed(0)
        losses = [self.policy.loss(batch.to(self.device)).item() for batch in self._batches(windows, None)]
        chosen = np.random.default_rng(0).permutation(len(windows))[:_ACTION_ERROR_WINDOWS]
        batch = windows.__getitems__(chosen.tolist()).to(self.device)
        generators = [torch.Generator().manual_seed(i) for i in range(len(batch))]
        error = (self.policy.act(batch.observation, generators) - batch.actions).abs().mean().item()
        self.ema.restore(self.policy.parameters())
        return {"validation_loss": float(np.mean(losses)), "validation_action_error": error}

    def _save(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "identity": self._identity,
                "epoch": self._epoch,
                "rows": self._rows,
                "policy": self.policy.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            buffer,
        )
        write_durably(self._state_file, buffer.getvalue())
        self._write_log()

    def _write_log(self) -> None:
        text = io.StringIO()
        columns = ["epoch", "learning_rate", "train_loss", "validation_loss", "validation_action_error"]
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self._rows)
        write_durably(self._log_file, text.getvalue().encode())

    def _restore(self) -> None:
        if not self._resume or not self._state_file.exists():
            return
        try:
            state = torch.load(self._state_file, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise TrainingError(
                f"training state {str(self._state_file)!r} cannot be read ({type(error).__name__}: truncated or "
                "foreign); delete it or give resume=false"
            ) from error
        if state["identity"] != self._identity:
            changed = [key for key in self._identity if state["identity"].get(key) != self._identity[key]]
            raise TrainingError(
                f"{str(self._state_file.parent)!r} holds a run with other settings ({', '.join(changed)} differ); "
                "choose another output or give resume=false"
            )
        self._epoch, self._rows = state["epoch"], state["rows"]
        self.policy.load_state_dict(state["policy"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _identity(batch: Any) -> Any:
    return batch
